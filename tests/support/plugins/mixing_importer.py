"""Files of somebody's supernets of the space `more-mixing`, whose tensors are called as ours with a word in front."""

from __future__ import annotations

from search_spaces import get_space
from supernets import Supernet
from supernets.importing.base import Found, Imported, Origin, check_tensors


class MixingImporter:
    expected = "a supernet of mixers"

    def recognises(self, found: Found, space: str | None) -> bool:
        return "theirs.head.classifier.weight" in found.tensors(("weights",))

    def read(self, found: Found, space: str | None) -> Imported:
        tensors = {name.removeprefix("theirs."): each for name, each in found.tensors(("weights",)).items()}
        supernet = Supernet(get_space("more-mixing", len(tensors["head.classifier.bias"])))
        check_tensors(found, tensors, {name: tuple(t.shape) for name, t in supernet.network.state_dict().items()})
        supernet.network.load_state_dict(tensors)
        return Imported(supernet, Origin("mixers", "0000.00000", "https://example.org", "MIT"))


MIXERS = MixingImporter()
