"""`nas finish`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from nas.cli import display
from nas.cli.errors import handles_errors
from nas.cli.from_settings import takes_settings
from nas.cli.options import Json, Quiet
from nas.cli.progress import ProgressPrinter
from nas.cli.search import baseline_lines
from nas.finishing.settings import FinishSettings
from nas.objectives.units import format_duration
from nas.runs.settings import Given


def exit_lines(facts: Mapping[str, Any] | None) -> list[str]:
    """What is known of early exits; nothing without any."""
    if facts is None:
        return []
    shares = ", ".join(f"{share:.0%}" for share in facts["test_shares"])
    behind = ", ".join(f"{kind} behind part {number}" for number, kind in facts["places"])
    expected, worst = facts["expected_ms"], facts["worst_ms"]
    return [
        f"early exits ({behind}): mean latency {expected:.3g} ms on `{facts['target']}`, {expected / worst:.2f} of the"
        f" worst, {worst:.3g} ms; they are in `{facts['folder']}`",
        f"on the test part {shares} of the images leave by each end; accuracy {facts['test_accuracy']:.2%}, whole"
        f" {facts['test_whole_accuracy']:.2%}; they agree on {facts['test_agreement']:.2%}",
    ]


@handles_errors
@takes_settings(FinishSettings)
def finish(given: Given, *, json: Json = False, quiet: Quiet = False) -> None:
    """Train one network alone until it can be shipped, and export it.

    To train with several processes on one machine: `torchrun --nproc-per-node 2 -m nas finish ...`
    """
    import nas

    is_main_process = os.environ.get("RANK", "0") == "0" or "TORCHELASTIC_RUN_ID" not in os.environ
    with ProgressPrinter(quiet or not is_main_process) as progress:
        result = nas.finish(**given, progress=progress)
    if not is_main_process:
        return
    if json:
        display.print_json(result.to_dict())
        return
    names = {
        "fp32": "inherited weights in fp32",
        "inherited": "inherited weights" if "fp32" not in result.accuracy else "the same in fewer bits",
        "relu": "with ReLU, in fp32",
        "clip": "weights clipped",
        "bias_correction": "biases corrected",
        "adaptive_rounding": "rounded adaptively",
        "teacher": "teacher",
        "trained": "after training",
        "averaged": f"averaged over {len(result.averaged)} of its checkpoints" if result.steps else "as it ships",
    }
    stages = [(name, text, value) for name, text in names.items() if (value := result.accuracy.get(name)) is not None]
    figure, beside = result.figures[0], result.balanced_accuracy
    is_accuracy, is_unlabelled = figure == "accuracy", not beside
    title = figure.replace("_", " ")
    verified = result.verified
    found, images = verified[f"test_{figure}"], verified["test_images"]
    if is_unlabelled:
        display.print_table(
            ["network", f"{title} on the search part"], [[text, f"{value:.3f}"] for _, text, value in stages]
        )
        judged = f"{title} {found:.3f} on {images} test images in ONNX Runtime"
    else:
        rows = [[text, f"{value:.2%}", f"{beside[name]:.2%}" if name in beside else ""] for name, text, value in stages]
        second = "balanced" if is_accuracy else "macro AUROC"
        display.print_table(["network", f"{title} on the search part", second], rows)
        judged = (
            f"{found:.2%} of {images} test images" if is_accuracy else f"{title} {found:.2%} on {images} test images"
        )
        judged += f" in ONNX Runtime, {verified[f'torch_test_{figure}']:.2%} in PyTorch"
    display.say(f"exported to {display.short(result.run / verified['export'])}: {judged}")
    for line in [*baseline_lines(verified), *exit_lines(verified.get("exits"))]:
        display.say(line)
    display.say(f"{result.steps} steps, {result.epochs:.3g} epochs, {format_duration(result.seconds)}")
    display.say(f"written to {display.short(result.run)}")
