"""The search from question to answer: which network of a space is best within a latency, on a device."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nas.controllers import get_controller
from nas.errors import NasError, UsageError
from nas.evaluation.accuracy import check_one_label
from nas.evaluation.accuracy_table import AccuracyTable
from nas.evaluation.compensation import Compensation
from nas.evaluation.evaluators import AsvitEvaluator, Evaluator, ScoreEvaluator, untrained_evaluator
from nas.evaluation.fidelity import trained_evaluator
from nas.evaluation.segmentation import with_masks
from nas.events import Progress, StageClock, StageStarted, TrainingCutShort
from nas.executors.successive_halving import FIDELITIES
from nas.latency.device import load_device
from nas.latency.evidence import expected_seconds
from nas.objectives.bounds import Bounds
from nas.objectives.objective import ACCURACY, AVERAGE_PRECISION, BALANCED, MEAN_IOU, Objective, make_objectives
from nas.objectives.quantities import Quantity
from nas.records.files import write_json
from nas.records.trial import State
from nas.result import SearchResult
from nas.runs.folder import (
    check_same,
    checkpoint_digest,
    original_checkpoint,
    recorded_settings,
    supernet_checkpoint,
)
from nas.runs.front_document import FrontHeader, front_document, with_many
from nas.runs.places import check_images, identity_of, images_of
from nas.runs.run import Run, next_run_folder
from nas.runs.settings import Given, folder_to_resume, verb
from nas.runs.settings_file import write_settings
from nas.runs.torch_device import choose_device
from nas.scores.registry import get_score
from nas.searching.execution import blueprint_of, default_batch, executor_name, open_executor
from nas.searching.extra_scores import with_length_distortion
from nas.searching.loop import SearchLoop
from nas.searching.plan import MEASURING, Budget, Plan, divide_time, planned_stages
from nas.searching.resolution import resolve_settings, resume_settings, share_of_largest
from nas.searching.settings import SearchSettings
from nas.searching.suggestions import learn_of_weights, recorded_sensitivities, recorded_suggestions
from nas.searching.training import check_training, search_training
from nas.training.options import checked_options, recordable
from nas.training.pretrained import (
    PRETRAINED,
    ModelRequest,
    PretrainedStart,
    find_model,
    folder_name,
    keep_original,
)
from nas.training.session import train_in_run
from nas.training.tracking import check_trackers, tracked
from search_spaces import Genotypes, get_space
from search_spaces.interruption import deferred_interrupt

if TYPE_CHECKING:
    from latency_tables.onnx_quantised import Precision
    from supernets.data.image_data import ImageData
    from supernets.supernet import Supernet
    from supernets.timm_models.compensation import Compensator


@verb(SearchSettings)
def search(given: Given) -> SearchResult:
    """Find the networks of a space with the best trade-offs between quality and latency on a device, or several.

    Without images networks are ranked untrained, by a score. With ``data`` a supernet is trained first, and networks
    are ranked by accuracy on the images' search part. With ``supernet`` its weights are used, with ``model`` those of
    the model, out of which networks are cut; with ``accuracies`` they are looked up. The most accurate network within
    the limits, or the front's knee where there are none, is exported and verified: test accuracy of the exported file,
    and measured latency where the target is this machine. Every reported network satisfies all bounds at once.

    Returns:
        The front and what can be done with it.

    Raises:
        UsageError: A value is out of range, values contradict each other, or there is nothing to resume.
        InfeasibleError: No network of the space stays within the limit; nothing is written.
        UnsatisfiableError: None is within all bounds; nothing is written.
        RunError: The run folder cannot be used.
        UnknownNameError: There is no such space, target, score, controller or tracker.
        MissingDependencyError: The package of a tracker is not installed.
        DataError: The images cannot be used.
    """
    check_trackers(given.get("track", ()))
    if given.get("options"):
        given = {**given, "options": recordable(checked_options(given["options"]))}
    folder = folder_to_resume(given)
    recorded = None if folder is None else recorded_settings(folder)
    if recorded is not None and folder is not None:
        return _Search(resume_settings(given, recorded, folder))()
    if "supernet" in given and "space" not in given:
        from supernets.checkpoint import read_checkpoint

        given = {**given, "space": read_checkpoint(supernet_checkpoint(Path(given["supernet"]))).metadata["space"]}
    settings = resolve_settings(given)
    if "batch" not in given and settings.evaluates and settings.fidelity == "full":
        settings = replace(settings, batch=default_batch(settings))
    return _Search(settings)()


@dataclass(frozen=True)
class _Question:
    """All that is known before the run folder is touched."""

    bounds: Bounds
    feasible: Genotypes
    untrained: ScoreEvaluator | AsvitEvaluator | None
    images: ImageData | None
    supernet: Supernet | None
    identity: Mapping[str, Any]
    spent_seconds: float
    own: PretrainedStart | None = None
    table: AccuracyTable | None = None


class _Search:
    """One call of `search`."""

    def __init__(self, settings: SearchSettings) -> None:
        self.clock = StageClock(settings.progress)
        self.progress: Progress = self.clock
        self.settings = settings = replace(settings, progress=self.progress)
        self._compensated: tuple[Supernet, Compensator] | None = None
        if settings.device is not None:
            choose_device(settings.device)  # one that is not there is found out before anything is done

    def __call__(self) -> SearchResult:
        make_controller = get_controller(self.settings.controller)
        own, folder = None, self.settings.folder
        goes_on = self.settings.resume and folder is not None and recorded_settings(folder) is not None
        self.clock.plan(planned_stages(self.settings, folder if goes_on else None))
        if self.settings.model is not None:
            device = choose_device(self.settings.device)
            assert self.settings.data is not None
            asked = ModelRequest(
                self.settings.model,
                self.settings.weights or PRETRAINED,
                self.settings.seed,
                self.settings.budget_seconds or None,
                self.settings.uses_labels,
                self.settings.options.get("precision"),
            )
            kept = folder if self.settings.resume else None
            own = find_model(asked, self.settings.data, kept, device, self.progress)
            self.settings = replace(self.settings, space=own.space)
        question = self._question(own)
        settings = self.settings
        if folder is None:
            folder = next_run_folder(folder_name(f"{settings.model or settings.space}") + f"-{settings.target}")
        learned, started = {}, time.monotonic()
        if own is not None and question.images is not None and not goes_on:
            compensator = self._compensator(own.supernet, question.images)
            learned = learn_of_weights(own, question.images, question.bounds, settings, compensator)
        exports = question.images is not None
        time_plan = divide_time(self.settings, question.spent_seconds + time.monotonic() - started, exports=exports)
        document = {
            "command": "search",
            **settings.recorded(),
            **asdict(time_plan),
            **question.identity,
            **identity_of(question.images),
            **learned,
        }
        with (
            Run(folder, document, seed=settings.seed, resume=settings.resume, force=settings.force) as run,
            tracked(settings.track, run.path, settings.to_repeat(), self.progress, 10) as self.progress,
        ):
            settings = self.settings = replace(settings, progress=self.progress)
            if run.is_resumed:
                self._take_up(run, question)
            elif time_plan.is_cut_short(usual := divide_time(settings, 0.0, exports=exports)):
                self.progress(TrainingCutShort(time_plan, usual))
            elif any(asdict(time_plan).values()):
                self.progress(time_plan)
            write_settings(run.path, "search", settings.to_repeat())
            if own is not None and question.images is not None and not original_checkpoint(run.path).exists():
                keep_original(own, question.images, run.path)
            evaluator, training = self._evaluator(run, question)
            objectives = make_objectives(settings.objective_names, None if evaluator is None else evaluator.name)
            workers = 1 if executor_name(settings) == "in-process" else settings.workers
            score = self._score_in_columns()
            plan = Plan(objectives, settings.seed, settings.batch, FIDELITIES[settings.fidelity], workers, score)
            problem = question.bounds.problem(objectives, settings.seed, settings.evaluations, question.feasible)
            problem = replace(
                problem,
                suggested=recorded_suggestions(run.settings, problem.space, run.path),
                sensitivities=recorded_sensitivities(run.settings, problem.space, run.path),
            )
            seconds = run.settings["search_seconds"]
            self.progress(StageStarted("search", seconds))
            with (
                open_executor(
                    settings,
                    evaluator if score is None else None,
                    lambda: blueprint_of(settings, run.path, question.images),
                ) as executor,
                deferred_interrupt() as interrupted,
            ):
                controller, stop = make_controller(problem), interrupted.is_set
                loop = SearchLoop(run, question.bounds, plan, executor, controller, self.progress, stop)
                reason = loop(Budget(settings.evaluations, seconds, settings.patience))
                result = self._result(run, question, loop, objectives, training, reason)
            if question.images is not None and not result.is_interrupted:
                from nas.searching.winner import ship_winner

                document = ship_winner(result, settings, run.settings.get("winner_seconds"), question.images)
                result = SearchResult(result.run, document)
            self.clock.end()
            run.note_stages(self.clock.seconds)
        return result

    def _question(self, own: PretrainedStart | None = None) -> _Question:
        """Load what the search needs and make sure that it can be answered, before anything is trained or written."""
        settings, classes, supernet, images, training = self.settings, None, None, None, None
        supernet_digest = None
        if settings.supernet is not None:
            supernet, images, supernet_digest = self._load_supernet(Path(settings.supernet))
        elif settings.data is not None:
            from supernets.data.sources import load_data

            side = get_space(settings.space).image_side
            if settings.trains or settings.finishes:
                training = search_training(settings, settings.budget_seconds)
                images = load_data(settings.data, side, augmentation=training.augmentation, hflip=training.hflip)
            else:
                images = load_data(settings.data, side)
        if images is not None:
            _check_labels(settings, images)
            classes = images.classes if own is None else own.supernet.space.classes
        space, table = get_space(settings.space, classes=classes), None
        if settings.accuracies is not None:
            table = AccuracyTable.read(Path(settings.accuracies), space, settings.interpolate)
            space = table.space
        if training is not None and images is not None:
            check_training(training, space)
            if images.has_several_labels:
                from supernets.training.trainer import check_suits_several_labels

                check_suits_several_labels(training, images.source)
        untrained = None if settings.score is None else untrained_evaluator(space, settings.score, settings.workers)
        if expected_seconds(settings.targets, space):
            self.progress(StageStarted(MEASURING))
        started = time.monotonic()
        devices = [load_device(space, target, build=True, progress=self.progress) for target in settings.targets]
        if settings.limit_share is not None and settings.limit_ms is None:
            self.settings = settings = replace(settings, limit_ms=share_of_largest(settings, space, devices))
        bounds = Bounds(space, devices, settings.bounds, settings.known_quantities)
        spent_seconds = time.monotonic() - started
        try:
            feasible = bounds.check()
        except NasError:
            if not settings.focus:
                raise
            self.settings = settings = replace(settings, focus=0.0)  # nothing is that near to the limit
            bounds = Bounds(space, devices, settings.bounds, settings.known_quantities)
            feasible = bounds.check()
        identity = {
            "space_version": space.version,
            "latency_fingerprint": bounds.fingerprint(),
            "supernet_digest": supernet_digest,
            "accuracies_digest": None if table is None else table.digest,
        }
        if own is not None:
            spent_seconds += own.seconds
            if settings.compensation is not None and (asked := Compensation.of(settings.recorded())) is not None:
                assert images is not None, "a search inside a model has images"
                asked.compensator(own.supernet, images, settings.seed)
        return _Question(bounds, feasible, untrained, images, supernet, identity, spent_seconds, own, table)

    def _score_in_columns(self) -> Quantity | None:
        """The score where it is a quantity, and nobody asked for processes that evaluate it network by network."""
        score, name = self.settings.score, executor_name(self.settings)
        return None if score is None or name != "in-process" else get_score(score).quantity

    def _load_supernet(self, path: Path) -> tuple[Supernet, ImageData, str]:
        from supernets.checkpoint import load_supernet

        checkpoint = supernet_checkpoint(path)
        supernet, metadata = load_supernet(checkpoint, choose_device(self.settings.device))
        if metadata["space"] != self.settings.space:
            raise UsageError(
                f"supernet `{checkpoint}` is of space `{metadata['space']}`, found space `{self.settings.space}`",
                hint=f"search `{metadata['space']}`, or train a supernet of `{self.settings.space}`",
            )
        return supernet, images_of(checkpoint, metadata, self.settings.data), checkpoint_digest(checkpoint)

    def _take_up(self, run: Run, question: _Question) -> None:
        """Check that a resumed run is about the same, and take over a changed budget."""
        for name, value in question.identity.items():
            check_same(run.path, name, run.settings.get(name), value)
        if question.images is not None:
            check_images(question.images, run.settings)
        run.note_places(self.settings.recorded())
        changes: dict[str, Any] = {
            "evaluations": self.settings.evaluations,
            "budget_seconds": self.settings.budget_seconds,
            "patience": self.settings.patience,
        }
        before, now = run.settings["budget_seconds"], self.settings.budget_seconds
        if now != before:
            planned = divide_time(
                self.settings, question.spent_seconds, exports=question.images is not None
            ).search_seconds
            recorded = run.settings["search_seconds"]
            is_extended = now is not None and before is not None and recorded is not None
            name = "winner_seconds" if self.settings.finishes and is_extended else "search_seconds"
            spent = run.settings.get(name)
            changes[name] = max(spent + now - before, 0.0) if is_extended and spent is not None else planned
        run.update_settings(changes)

    def _evaluator(self, run: Run, question: _Question) -> tuple[Evaluator | None, dict[str, Any] | None]:
        settings, images = self.settings, question.images
        if question.untrained is not None or not settings.evaluates:
            return question.untrained, None
        if question.table is not None:
            return question.table.evaluator(), None
        assert images is not None, "a run without a score has images"
        if question.supernet is not None:
            return self._judged_as_asked(question.supernet, images, None), None
        if not settings.trains:
            assert question.own is not None, "a budget of 0 is for a model"
            return self._judge(question.own.supernet, images), None
        training = search_training(settings, run.settings["training_seconds"])
        start = None
        if question.own is not None:
            training = replace(training, precision=question.own.precision(settings.options))
            start = question.own.start(training, images.has_several_labels)
        trained, supernet = train_in_run(
            run, settings.space, images, training, self.settings.device, self.progress, start=start
        )
        return self._judge(supernet, images), trained.to_dict()

    def _judge(self, supernet: Supernet, images: ImageData) -> Evaluator:
        """What judges the networks of trained weights, compensated where that was asked for."""
        return self._judged_as_asked(supernet, images, self._compensator(supernet, images))

    def _judged_as_asked(self, supernet: Supernet, images: ImageData, compensator: Compensator | None) -> Evaluator:
        settings = self.settings
        precision = cast("Precision", settings.precision)
        return trained_evaluator(settings.judged_by, supernet, images, settings.seed, compensator, precision)

    def _compensator(self, supernet: Supernet, images: ImageData) -> Compensator | None:
        """What makes up for what was cut, where that was asked for; its statistics are taken once."""
        asked = Compensation.of(self.settings.recorded())
        if asked is not None and (self._compensated is None or self._compensated[0] is not supernet):
            self._compensated = supernet, asked.compensator(supernet, images, self.settings.seed)
        return None if asked is None or self._compensated is None else self._compensated[1]

    def _result(
        self,
        run: Run,
        question: _Question,
        loop: SearchLoop,
        objectives: Sequence[Objective],
        training: Mapping[str, Any] | None,
        reason: str,
    ) -> SearchResult:
        settings = self.settings
        is_interrupted, front = reason == "interrupted", loop.front
        if not front and not is_interrupted:
            failed = [trial.reason for trial in loop.trials if trial.state in (State.FAILED, State.LOST)]
            raise NasError(
                f"none of {loop.evaluated} networks could be evaluated: {failed[0] if failed else 'none was proposed'}",
                hint=f"the reason of each is in `{run.path / 'trials.jsonl'}`",
            )
        if question.untrained is not None and question.untrained.is_free and not is_interrupted:
            front = with_length_distortion(question.bounds.space, front, settings.seed, self.progress)
        header = FrontHeader(
            run=run.path,
            space=settings.space,
            seed=settings.seed,
            target=settings.target,
            limit_ms=settings.limit_ms,
            objective=objectives[0].name,
            sources=[source.source for source in (*question.bounds.devices, question.table) if source is not None],
            classes=question.bounds.space.classes,
        )
        document = front_document(header, front, loop.evaluated, None if is_interrupted else loop.settled())
        limits = settings.bounds
        if settings.objectives is not None or len(limits) > (settings.limit_ms is not None):
            document = with_many(document, objectives, limits, loop.contenders)
        if training is not None:
            document["training"] = dict(training)
        if question.own is not None:
            document["model"] = {**question.own.facts, **question.own.costs(question.bounds)}
            asked = Compensation.of(settings.recorded())
            if asked is not None and question.images is not None and self._compensated and not is_interrupted:
                document["model"]["compensation"] = asked.facts(
                    *self._compensated,
                    question.images,
                    settings.seed,
                    settings.uses_labels,
                    question.own.precision(settings.options),
                )
        write_json(run.path / "front.json", document)
        return SearchResult(run.path, document, is_interrupted)


def _check_labels(settings: SearchSettings, images: ImageData) -> None:
    """Make sure that images have the labels that an objective which was named is about."""
    if MEAN_IOU in settings.objective_names:
        with_masks(images)
    elif settings.uses_labels:
        from supernets.data.mask_folder import refuse_masks

        refuse_masks(images)
    if settings.scales:
        check_one_label(images, "`scales`")
    if BALANCED in settings.objective_names:
        check_one_label(images, f"objective `{BALANCED}`")
    if AVERAGE_PRECISION in settings.objective_names and not images.has_several_labels:
        raise UsageError(
            f"objective `{AVERAGE_PRECISION}`: images of `{images.source}` have one class each, not several labels",
            hint=f"name `{ACCURACY}` instead",
        )
