"""Finishing a network: training it alone, from inherited weights or from scratch, until it can be shipped."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nas.errors import UsageError
from nas.evaluation.accuracy import accuracy_of
from nas.evaluation.evaluators import FP32, BalancedEvaluator
from nas.events import Progress, StageClock, StageStarted
from nas.finishing.averaging import Ingredients, average
from nas.finishing.exits import EPOCHS, ExitRequest, add_exits
from nas.finishing.plan import COMMAND, FinishPlan, alone, make_plan
from nas.finishing.quantised import FewerBits, stages_of, untrained_checkpoint, with_relu
from nas.finishing.result import FinishResult, figures_of
from nas.finishing.settings import FinishSettings
from nas.finishing.source import take_over, take_over_imported
from nas.finishing.teacher import ITSELF, NONE, make_teacher
from nas.finishing.unlabelled import Unlabelled
from nas.records.files import write_json
from nas.runs.folder import (
    CHECKPOINTS,
    EXITS,
    TRAINING,
    check_same,
    recorded_settings,
    seconds_left,
    supernet_checkpoint,
)
from nas.runs.places import check_images
from nas.runs.run import Run, next_run_folder
from nas.runs.settings import Given, folder_to_resume, verb
from nas.runs.settings_file import write_settings
from nas.runs.torch_device import choose_device
from nas.training.heeding import is_heeded, without_teachers
from nas.training.tracking import check_trackers, tracked

if TYPE_CHECKING:
    from nas.exporting.formats.onnx_file import OnnxFile
    from nas.quantisation.evaluated import Wanted
    from supernets.supernet import Supernet
    from supernets.training.distributed import ProcessGroup
    from supernets.training.events import TrainingProgress, TrainingResult
    from supernets.training.soup import Ingredient, Snapshots, Soup
    from supernets.training.targets import AnyTeacher

RESULT = "finish.json"
START = "start"
"""What the weights that a finish begins with are called among those that may be averaged."""
INHERITED = "inherited"
SNAPSHOTS = "snapshots"
"""Folder of the checkpoints that may be averaged."""


@verb(FinishSettings)
def finish(given: Given) -> FinishResult:
    """Train one network alone until it can be shipped: a member of a front, or any network of a space.

    It starts from the weights that the run's supernet, or the run itself, has for it, or from scratch. An exponential
    moving average of the weights is kept; its best checkpoints are averaged where that helps
    (`supernets.training.soup`), judged on the search part of the images. The result is exported, and its accuracy taken
    on the test part in ONNX Runtime. Without a recipe, settings of the training are those that inherited weights were
    trained with, at a quarter of their learning rate and for 30 epochs, else the trainer's.

    Processes that `torchrun` starts train together, each on its part of every batch: all call this with the same
    arguments, and the first one writes. All return the same result.

    Returns:
        Where the network is, its accuracy, and what was found out about the exported files.

    Raises:
        UsageError: What is given does not name one network, makes no sense together, or is not known.
        UnknownNameError: There is no such network, recipe or tracker.
        MissingDependencyError: The package of a tracker is not installed.
        SearchSpaceError: The space's networks are for images of one size, or have no stochastic depth.
        RunError: A run folder cannot be used.
        DataError: The images cannot be used, or are not those of the inherited weights.
        CheckpointError: The inherited weights are gone, damaged, or have changed since the finish was started.
        TrainingError: The training cannot go on; the last good checkpoint is kept.
        ProofError: The exported files disagree with the network.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint was written; resuming goes on.
    """
    if "epochs" in given and "budget_seconds" in given:
        raise UsageError("both `epochs` and `budget_seconds` are given, expected one of them")
    if given.get("start") not in (None, "inherited", "scratch"):
        raise UsageError(f"`start` is {given['start']!r}, expected `inherited` or `scratch`")
    check_trackers(given.get("track", ()))
    folder = folder_to_resume(given)
    recorded = None if folder is None else recorded_settings(folder)
    from supernets.training.distributed import join_process_group

    with join_process_group(choose_device(given.get("device"))) as group:
        if not group.is_main_process:
            return _finish_beside(group)
        return _Finish(make_plan(given, recorded, folder), group)()


def _finish_beside(group: ProcessGroup) -> FinishResult:
    told = group.broadcast(None)
    folder = Path(told["run"])
    return _Finish(make_plan({}, told["document"], folder), group).beside(folder, told["is_resumed"])


class _Finish:
    """One call of `finish`."""

    def __init__(self, plan: FinishPlan, group: ProcessGroup) -> None:
        self.plan, self.group, self.device = plan, group, group.device
        self.clock = StageClock(plan.settings.progress)
        self.progress: Progress = self.clock
        self.accuracy: dict[str, float | None] = {INHERITED: None}
        self.wanted = plan.wanted
        self.fewer: FewerBits | None = None
        self.reached = INHERITED  # the stage whose weights are the best so far
        self.figures = figures_of(plan.images, plan.source.uses_labels)
        self.balanced: dict[str, float] = {}
        self.unlabelled = Unlabelled.of(plan.source, plan.images, plan.training.seed)

    def __call__(self) -> FinishResult:
        """Finish in the process that writes."""
        self.clock.plan(self._stages())
        plan, network = self.plan, self._network()
        teacher = self._teacher()
        settings, folder = plan.settings, plan.settings.folder
        document = plan.document()
        if folder is None:
            folder = next_run_folder(re.sub(r"[^\w.-]+", "-", plan.space.name) + "-finish")
        every = plan.training.log_every_steps
        with (
            Run(folder, document, seed=plan.training.seed, resume=settings.resume, force=settings.force) as run,
            tracked(settings.track, run.path, settings.recorded(), self.progress, every) as self.progress,
        ):
            if run.is_resumed:
                for name in ("digest", "soup_digests"):
                    check_same(run.path, name, run.settings.get(name, document[name]), document[name])
                check_images(plan.images, run.settings)
                run.note_places(settings.recorded())
            write_settings(run.path, COMMAND, settings.recorded())
            self.group.broadcast({"run": str(run.path), "is_resumed": run.is_resumed, "document": document})
            result = self._finish(run, network, teacher)
            write_json(run.path / RESULT, result.to_dict())
            self.clock.end()
            run.note_stages(self.clock.seconds)
        self.group.broadcast(result.to_dict())
        return result

    def beside(self, folder: Path, is_resumed: bool) -> FinishResult:
        """Train in a process beside the one that writes."""
        network = self._network()
        teacher = self._teacher()
        told = self.group.broadcast(None)
        if told["trains"]:
            self._train(folder, is_resumed, network, teacher if told["heeded"] else None, None)
        return FinishResult.from_dict(self.group.broadcast(None))

    def _stages(self) -> dict[str, float | None]:
        """What is going to be done, in order; training where fewer bits do not keep enough."""
        training = self.plan.training
        epochs = "" if training.budget_seconds is not None else f" of {training.epochs:g} epochs"
        after = ["averaging", *([] if self.plan.exits is None else ["exits"]), "export"]
        folder = self.plan.settings.folder if self.plan.settings.resume else None
        left = seconds_left(training.budget_seconds, None if folder is None else folder / CHECKPOINTS / TRAINING)
        return {**dict.fromkeys(stages_of(self.wanted)), f"training{epochs}": left, **dict.fromkeys(after)}

    def _network(self) -> Supernet:
        from supernets.supernet import Supernet

        plan = self.plan
        network = Supernet(plan.inherited_space, seed=plan.training.seed)
        if plan.starts_inherited and plan.inherited is not None and plan.inherited.is_imported:
            take_over_imported(plan.inherited, network, plan.images, plan.training.seed)
        elif plan.starts_inherited and plan.inherited is not None:
            take_over(plan.inherited, network)
            network.to(self.device)
            self._compensate(network)
        if self.wanted != FP32:
            self.fewer = self._in_fewer_bits(network.to(self.device))
            network = self.fewer.network
        return network.to(self.device)

    def _in_fewer_bits(self, network: Supernet) -> FewerBits:
        """The network in fewer bits, with ReLU in place of GELU where that is asked."""
        plan, seed, teacher = self.plan, self.plan.training.seed, None
        if self.group.is_main_process:
            self._judge(network, "fp32", FP32)
        if plan.settings.relu:
            teacher = network.extract(plan.source.architecture)
            network = with_relu(network, plan.space, plan.images, seed, self.progress)
            if self.group.is_main_process:
                self._judge(network, "relu", FP32)
        return FewerBits.of(network, plan.images, seed, self.wanted, teacher)

    def _compensate(self, network: Supernet) -> None:
        """Make up for what the search cut, as it did."""
        plan = self.plan
        if plan.inherited is None or plan.inherited.is_alone or not plan.source.makes_up:
            return
        if self.group.is_main_process:
            self._judge(network, "sliced")
        supernet = plan.inherited.supernet.to(self.device)
        take_over(plan.inherited, network, lambda _: plan.source.chosen(supernet, plan.images))

    def _finish(self, run: Run, network: Supernet, teacher: AnyTeacher | None) -> FinishResult:
        from supernets.training.feature_distillation import FeatureTeacher
        from supernets.training.soup import Ingredient, Snapshots

        plan = self.plan
        accuracy, start = self.accuracy, []
        if plan.starts_inherited:
            before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            inherited = self._judge(network, INHERITED)
            network.load_state_dict(before)  # without the statistics that it was judged with
            start = [self._staged(network, Ingredient(START, inherited, lambda: before))]
            if "sliced" in accuracy:
                accuracy["compensated"] = accuracy[INHERITED]
                self.balanced |= {"compensated": self.balanced[INHERITED]} if self.balanced else {}
        heeded = self.unlabelled is not None
        if teacher is not None and not isinstance(teacher, FeatureTeacher):
            accuracy["teacher"] = known = accuracy_of(teacher, plan.images, "search", self.device)
            heeded = is_heeded(known, accuracy[INHERITED], plan.images, self.progress)
        trains = not self._keeps_enough()
        self.group.broadcast({"heeded": heeded, "trains": trains})
        if not trains:
            return self._result(run, network, *self._untrained(run, network))
        if start:
            network.load_state_dict(before)  # rounded weights would not move
        teacher = teacher if heeded else None
        snapshots = Snapshots(run.path / CHECKPOINTS / SNAPSHOTS, self._judge)
        self.progress(StageStarted("training", plan.training.budget_seconds))
        outcome = self._train(run.path, run.is_resumed, network, teacher, snapshots)
        self.progress(StageStarted("averaging"))
        ingredients = Ingredients(start, snapshots.ingredients(), plan.soup)
        soup = average(network, ingredients, outcome.checkpoint, partial(self._judge, network))
        if self.unlabelled is not None:
            self.unlabelled.complete(network)
        return self._result(run, network, outcome, soup)

    def _staged(self, network: Supernet, best: Ingredient) -> Ingredient:
        """The best that stages make of a network in fewer bits, which they are tried on until it keeps enough."""
        from supernets.training.soup import Ingredient

        if self.fewer is None:
            return best
        for stage in stages_of(self.wanted):
            if self._keeps_enough():
                break
            self.progress(StageStarted(stage))
            self.fewer.apply(stage, self.plan.training.seed, self.progress)
            weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            found = self._judge(network, stage)
            if found >= best.accuracy:
                self.reached, best = stage, Ingredient(stage, found, partial(dict, weights))
            self.fewer.load(best.load())
        return best

    def _keeps_enough(self) -> bool:
        """Whether fewer bits cost so little that nothing is trained."""
        fp32, found = self.accuracy.get("fp32"), self.accuracy[self.reached]
        return fp32 is not None and found is not None and fp32 - found <= self.plan.settings.tolerance / 100

    def _untrained(self, run: Run, network: Supernet) -> tuple[TrainingResult, Soup]:
        """What a training would leave that changed nothing."""
        from supernets.training.events import TrainingResult
        from supernets.training.soup import Soup

        assert self.plan.inherited is not None, "what is quantised has weights"
        folder = run.path / CHECKPOINTS / TRAINING
        path = untrained_checkpoint(network, self.plan.inherited.metadata, self.plan.training, folder)
        accuracy = self.accuracy[self.reached] or 0.0
        self.accuracy["averaged"], self.balanced["averaged"] = accuracy, self.balanced[self.reached]
        return TrainingResult(path, 0, 0.0, 0.0, 0.0), Soup(dict(network.state_dict()), accuracy, (self.reached,))

    def _result(self, run: Run, network: Supernet, outcome: TrainingResult, soup: Soup) -> FinishResult:
        """Save and export what was found."""
        plan, accuracy = self.plan, self.accuracy
        checkpoint = self._save(run, network, outcome.checkpoint)
        objectives = {self.figures[0]: accuracy["averaged"]}
        run.update_settings({"card": {**run.settings["card"], "objectives": objectives}})
        exits = None if plan.exits is None else self._add_exits(run, network, plan.exits)
        self.progress(StageStarted("export"))
        verified = self._verify(run, network) | ({} if exits is None else {"exits": exits})
        return FinishResult(
            run=run.path,
            checkpoint=checkpoint,
            architecture=plan.architecture,
            accuracy=accuracy,
            balanced_accuracy=self.balanced,
            averaged=soup.members,
            verified=verified,
            steps=outcome.steps,
            epochs=outcome.epochs,
            seconds=outcome.seconds,
            figures=self.figures,
        )

    def _train(
        self, folder: Path, is_resumed: bool, network: Supernet, teacher: AnyTeacher | None, snapshots: Snapshots | None
    ) -> TrainingResult:
        """Train with the group; ``snapshots`` are for the process that writes."""
        from supernets.training.events import Callbacks
        from supernets.training.trainer import train_supernet

        def follow(event: TrainingProgress) -> None:
            if snapshots is not None:
                snapshots.follow(event)
            self.progress(event)

        return train_supernet(
            network,
            self.plan.images,
            self.plan.training if teacher is not None else without_teachers(self.plan.training),
            folder / CHECKPOINTS / TRAINING,
            resume=is_resumed,
            callbacks=Callbacks(follow, self.progress, None if snapshots is None else snapshots.validate),
            teacher=teacher,
            group=self.group,
        )

    def _teacher(self) -> AnyTeacher | None:
        plan = self.plan
        name = plan.settings.teacher or NONE
        if name == ITSELF:
            from supernets.training.network_teacher import NetworkTeacher

            return None if self.fewer is None else NetworkTeacher(self.fewer.teacher, plan.training.temperature)
        return make_teacher(name, plan.source, plan.inherited, plan.images, plan.training, self.device)

    def _judge(self, network: Supernet, stage: str | None = None, wanted: Wanted | None = None) -> float:
        """Accuracy with BatchNorm statistics of its own, which the network then has, in the precision that is asked.

        That of a stage is kept. Where classes are weighted, balanced accuracy is what counts; where images have several
        labels, mean average precision; without labels fidelity to the model that the network was cut out of.
        """
        seed, (figure, beside) = self.plan.training.seed, self.figures
        if self.unlabelled is not None:
            fidelity = self.unlabelled.judge(network, self.plan.source.architecture)
            self.accuracy.update({} if stage is None else {stage: fidelity})
            return fidelity
        evaluator = BalancedEvaluator(network, self.plan.images, seed, precision=wanted or self.wanted)
        found = evaluator.evaluate(alone(network.space), self.plan.training.seed)
        values = {**found.scores, evaluator.name: found.objective}
        if stage is not None:
            self.accuracy[stage], self.balanced[stage] = values[figure], values[beside]
        return values[figure] if self.plan.training.class_weights == "none" else values[beside]

    def _save(self, run: Run, network: Supernet, training: Path) -> Path:
        """Write the finished network, with the statistics that it was judged with."""
        from supernets.checkpoint import read_checkpoint, save_checkpoint

        path = supernet_checkpoint(run.path)
        save_checkpoint(path, network, {}, read_checkpoint(training).metadata)
        return path

    def _add_exits(self, run: Run, network: Supernet, request: ExitRequest) -> dict[str, Any]:
        """Exits of the finished network, in segments beside its checkpoint."""
        from latency_tables.predictor import LatencyPredictor
        from latency_tables.targets import load_target
        from supernets.early_exits import ExitChain

        plan = self.plan
        chain = ExitChain(network, plan.architecture)
        predictor, epochs = LatencyPredictor(load_target(plan.exit_target)), EPOCHS
        if plan.training.budget_seconds is None:
            epochs = min(epochs, plan.training.epochs)
        facts = add_exits(
            chain, plan.images, request, predictor, run.path / EXITS,
            epochs=epochs, seed=plan.training.seed, progress=self.progress,
        )  # fmt: skip
        return {"target": plan.exit_target, "folder": EXITS, **facts}

    def _verify(self, run: Run, network: Supernet) -> dict[str, Any]:
        """Export the network, and take the test accuracy of what was exported."""
        from nas.exporting.formats.onnx_file import ONNX_FILE
        from nas.exporting.formats.registry import get_format
        from nas.exporting.kept import ASSIGNMENT, NETWORK, QUANTISED
        from nas.exporting.members import export_run
        from nas.exporting.verify import facts_on_tests

        plan, architecture = self.plan, self.plan.architecture
        form: OnnxFile = ONNX_FILE
        if plan.settings.quantise is not None:
            form = cast("OnnxFile", get_format(f"onnx-{plan.settings.quantise}"))
            if not isinstance(self.wanted, str):
                target = run.path / QUANTISED / NETWORK
                target.mkdir(parents=True, exist_ok=True)
                write_json(target / ASSIGNMENT, self.wanted)
        export = export_run(run.path, formats=[] if form is ONNX_FILE else [form.name])
        path = export.folder / form.file
        if self.unlabelled is not None:
            judged = self.unlabelled.facts(path, network, architecture)
        else:
            judged = facts_on_tests(path, plan.images, plan.space, architecture)
            in_torch = accuracy_of(lambda x: network(x, architecture), plan.images, "test", self.device)
            judged[f"torch_test_{self.figures[0]}"] = in_torch
        proof = {name: value for name, value in export.proof.items() if name != "formats"}
        return {"export": str(export.folder.relative_to(run.path)), **judged, "proof": proof}
