"""Any timm vision transformer as a supernet: tables of named axes over timm's own parameters, an adapter per family."""

from supernets.timm_models.chain import adapter_of, chain_of, outline_of
from supernets.timm_models.family import TimmFamily, TimmNetwork

__all__ = ["TimmFamily", "TimmNetwork", "adapter_of", "chain_of", "outline_of"]
