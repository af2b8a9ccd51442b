"""Published supernets, brought into run folders of ours."""
