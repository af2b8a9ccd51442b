"""How shared weights are laid out, trained and sliced."""

from supernets.batch_norm import reestimate_batch_norm
from supernets.errors import CheckpointError, DataError, SupernetError, TrainingError
from supernets.families import asvit as _asvit
from supernets.families import autoformer as _autoformer
from supernets.families import elastic as _elastic
from supernets.families import mixers as _mixers
from supernets.families import resnas as _resnas
from supernets.family import NetworkFamily, build_network, family_of, network_config, register_family
from supernets.supernet import BorrowedSubnet, Supernet

__all__ = [
    "BorrowedSubnet",
    "CheckpointError",
    "DataError",
    "NetworkFamily",
    "Supernet",
    "SupernetError",
    "TrainingError",
    "build_network",
    "family_of",
    "network_config",
    "reestimate_batch_norm",
    "register_family",
]

del _asvit, _autoformer, _elastic, _mixers, _resnas
