"""What a network with a patch classifier returns while it is trained; defined where it travels beside exports."""

from supernets.networks.resnas import TokenLogits

__all__ = ["TokenLogits"]
