"""The network that a search chose: trained alone in the run's own folder, where that was asked for, and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nas.events import StageStarted, ignore
from nas.exporting.formats.onnx_file import ONNX_FILE
from nas.exporting.members import export_run
from nas.exporting.verify import export_and_verify, note_verified, onnx_accuracy, onnx_fidelity, shipped_format
from nas.finishing.finish import finish
from nas.growth.input_scales import FOLDER as SCALES
from nas.growth.input_scales import scale_chosen
from nas.objectives.objective import FIDELITY
from nas.runs.folder import FINISHED, original_checkpoint, recorded_settings
from nas.runs.front import SearchFront
from nas.searching.plan import SCALES_SHARE, SCALING
from nas.searching.settings import SearchSettings
from search_spaces import get_space
from supernets.checkpoint import load_supernet

if TYPE_CHECKING:
    from supernets.data.image_data import ImageData


def ship_winner(
    result: SearchFront, settings: SearchSettings, seconds: float | None, images: ImageData
) -> dict[str, Any]:
    """Finish and export the network that the settings pick, and verify what was exported; a finish of the same goes on.

    Args:
        result: What the search found.
        settings: Settings of the search; its training options are the finish's.
        seconds: Time to train; None for the epochs of a finish.
        images: Images that the search was for.

    Returns:
        What ``front.json`` now holds.

    Raises:
        NasError, SupernetError: As `nas.finish`.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint was written; resuming the search goes on.
    """
    if not settings.finishes:
        (settings.progress or ignore)(StageStarted("export"))
        return export_and_verify(result, images, settings.pick)
    folder, architecture = result.run / FINISHED, result.pick(settings.pick).architecture
    begun, for_scales = recorded_settings(folder), None
    if settings.scales and seconds is not None:
        for_scales = SCALES_SHARE * seconds
        seconds -= for_scales
    asked = {"architecture": architecture.to_dict(), "budget_seconds": seconds}
    goes_on = begun is not None and asked == {name: begun.get(name) for name in asked}
    finished = finish(
        run=result.run,
        pick=settings.pick,
        seed=settings.seed,
        budget_seconds=seconds,
        options=settings.options,
        device=settings.device,
        output=folder,
        resume=goes_on,
        force=not goes_on,
        progress=settings.progress,
    )
    facts = dict(finished.verified)
    export = folder / facts.pop("export")
    is_unlabelled = result.objective == FIDELITY
    facts |= {
        "export": str(export.relative_to(result.run)),
        f"search_{finished.figures[0]}": finished.accuracy["averaged"],
        "finished": dict(finished.accuracy),
        "epochs": finished.epochs,
    }
    path, form = export / ONNX_FILE.file, shipped_format(result.target)
    if form is not ONNX_FILE:
        path, space = export_run(folder, formats=[form.name]).folder / form.file, get_space(architecture.space)
        if is_unlabelled:
            original, _ = load_supernet(original_checkpoint(result.run))
            facts |= onnx_fidelity(path, original, images, space, architecture)
        else:
            facts |= onnx_accuracy(path, images, space, architecture).to_dict("test")
    if settings.scales:
        (settings.progress or ignore)(StageStarted(SCALING, for_scales))
        facts["scales"] = scale_chosen(
            folder,
            settings.bounds,
            result.target,
            facts[f"search_{finished.figures[0]}"],
            folder=result.run / SCALES,
            seconds=for_scales,
            progress=settings.progress or ignore,
        ).record
    return note_verified(result, images, settings.pick, path, facts)
