"""SynFlow: how much flows through a network whose weights are all positive.

Source: Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS
2020, arXiv 2006.05467; as a score of architectures: Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR
2021, arXiv 2101.08134. With parameters replaced by their absolute values and an image of ones, the score is the sum
over weights of weight times gradient of the summed outputs.

Deviations: the natural logarithm of that sum, since the sum itself exceeds any format for deep networks (ranks stay
the same), computed in float64; all norms are left out, layer norms too, as Abdelfattah et al. leave out batch norms:
a norm would undo the scale that is being measured. Attention weighs all positions alike, so that the network stays
linear in its input; weights of queries and keys carry no flow. Biases take part in the flow but are not summed.
"""

from __future__ import annotations

import torch

from nas.scores.base import Score
from nas.scores.untrained import UntrainedNetwork


def synflow(network: UntrainedNetwork) -> float:
    """The logarithm of the synaptic flow; no images are used."""
    linearised = network.linearised(keep_norms=False)
    flows = [(weight * linearised.gradients[name]).sum() for name, weight in linearised.weights.items()]
    return float(torch.stack(flows).sum().log())


SYNFLOW = Score("synflow", synflow, "Tanaka et al., NeurIPS 2020")
