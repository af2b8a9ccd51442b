"""The settings of a search, each typed once: see `nas.runs.settings` for what is made from them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from nas.objectives.units import BUDGET, COUNT, LATENCY, SHARE
from nas.runs.settings import TRACK, WITHOUT_LABELS, RunSettings, Setting

if TYPE_CHECKING:
    from nas.objectives.bounds import Limit

SPACE, DEVICE, SEARCH = "Space and model", "Device and limits", "Search"
TRAINING, PLACE = "Training", "Where it runs"
COMPENSATION_IMAGES, LEAST_IMAGES = 512, 32
DEFAULT_FOCUS = 0.7
"""Lower end of the limit on latency where what counts is the most accurate network within it."""
SUPERNET, WINNER = "supernet", "winner"
"""What a budget may train."""
FP32, INT8 = "fp32", "int8"
DEFAULT_WINDOW = 0.975
"""Lower end of a bound on parameters or MACs, as a share of it: that of ViT-ResNAS."""


@dataclass(frozen=True)
class Question:
    """What a search and its preview are about."""

    space: Annotated[str, Setting("Search space, see `nas spaces`.", SPACE)] = "elastic"
    target: Annotated[str, Setting("Device whose latency counts, see `nas targets`.", DEVICE)] = "pixel6"
    limit_ms: Annotated[
        float | None,
        Setting(
            "Hard limit on the upper end of the predicted latency on `target`, in milliseconds, or 12ms.",
            default="none",
            measure=LATENCY,
        ),
    ] = None


@dataclass(frozen=True)
class SearchSettings(RunSettings, Question):
    """The settings of `nas search`."""

    _: KW_ONLY
    track: Annotated[list[str], Setting(TRACK, "Output", "none", metavar="NAMES", is_recorded=False)] = field(
        default_factory=list
    )
    limits: Annotated[
        dict[str, float],
        Setting(
            "Hard limits: 12ms on the predicted latency on the target, 60% for a share of that of `model` itself,"
            " `local=3ms` on another device's, `peak-memory=64MB` on any quantity. The first device that is"
            " named here or in `objectives` is the target where none is given. Repeatable.",
            DEVICE,
            option="limit",
            metavar="NAME=VALUE",
            kind="limits",
        ),
    ] = field(default_factory=dict)
    objectives: Annotated[
        list[str] | None,
        Setting(
            "What to optimise, with commas: accuracy (mean_average_precision where images have several labels),"
            " fidelity (without labels), mean_iou (images with masks) or a score, which are maximised;"
            " latency:DEVICE, params, macs,"
            " peak-memory and other quantities, which are minimised. Nothing is evaluated where the first kind is"
            " missing.",
            DEVICE,
            "accuracy or the score, and the latency on `target`",
        ),
    ] = None
    macs: Annotated[
        float | None,
        Setting("MACs of the networks: a window that ends there.", DEVICE, metavar="COUNT", measure=COUNT),
    ] = None
    params: Annotated[
        float | None,
        Setting("Parameters of the networks: a window that ends there.", DEVICE, metavar="COUNT", measure=COUNT),
    ] = None
    window: Annotated[
        float,
        Setting("Lower end of `macs` and `params`, as a share of them; 0 for no lower end.", DEVICE, measure=SHARE),
    ] = DEFAULT_WINDOW
    focus: Annotated[
        float,
        Setting(
            "Lower end of the limit on the latency on `target`, as a share of it: networks that leave more of it unused"
            " are not judged; 0 for no lower end.",
            DEVICE,
            f"{DEFAULT_FOCUS:g} where networks inside `model` are judged before any training, else 0",
            measure=SHARE,
        ),
    ] = 0.0
    precision: Annotated[
        str,
        Setting(
            "What networks compute in: fp32, or int8, in which latency (of TARGET@int8) and accuracy are then judged.",
            DEVICE,
        ),
    ] = FP32
    limit_share: Annotated[
        float | None,
        Setting(
            "Limit on the latency on `target` as a share of that of `model` itself, upper ends of both; `--limit 60%`.",
            measure=SHARE,
        ),
    ] = None
    data: Annotated[
        str | None,
        Setting(
            "Images to train a supernet on before the search: digits, glyphs, a folder of images, or a dataset of"
            " timm.",
            SPACE,
        ),
    ] = None
    supernet: Annotated[
        Path | str | None,
        Setting("Run folder of `nas train`, or a checkpoint, whose space and trained weights are searched.", SPACE),
    ] = None
    accuracies: Annotated[
        Path | str | None,
        Setting(
            "Table of known accuracies, in place of images and weights: a CSV file with the columns architecture and"
            " accuracy. Networks that it lacks are never proposed.",
            SPACE,
            metavar="TABLE",
        ),
    ] = None
    interpolate: Annotated[
        bool,
        Setting(
            "Whether networks that `accuracies` lacks are proposed too, with an accuracy that is predicted from those"
            " that it has, and called so.",
            SPACE,
        ),
    ] = False
    model: Annotated[
        str | None,
        Setting(
            "Vision transformer of timm, NAME or NAME?argument=value, in place of `space`: the networks inside it are"
            " searched, from its own weights, and it teaches them. Needs `data`.",
            SPACE,
        ),
    ] = None
    labels: Annotated[
        str,
        Setting(
            "What is known of the images: given (the class of each), or none: networks inside `model` are ranked by how"
            " much of its features they keep, and with a budget the one that is chosen learns the others.",
            SPACE,
        ),
    ] = "given"
    weights: Annotated[
        str | None,
        Setting(
            "Weights of `model`: a file, a folder, pretrained (from timm), or random.",
            SPACE,
            "pretrained, with `model`",
        ),
    ] = None
    score: Annotated[
        str | None,
        Setting(
            "Score that ranks untrained networks, see `nas score`: capacity, params, naswot...",
            SEARCH,
            "capacity, or that of the controller's paper",
        ),
    ] = None
    controller: Annotated[
        str,
        Setting(
            "What proposes networks: predictor, exchange, nsga2, nsga3, tpe, gp, local, evolution (ElasticViT's),"
            " evolution-resnas (ViT-ResNAS's), reinforce (As-ViT's), or random.",
            SEARCH,
            "predictor; exchange where networks inside `model` are judged before any training within a limit, nsga2"
            " where the score is computed from sizes, evolution-resnas where sizes have a window, local where nothing"
            " is evaluated",
        ),
    ] = "nsga2"
    seed: Annotated[
        int, Setting("Seed of everything random.", SEARCH, "0, or that of the controller's paper", least=0)
    ] = 0
    evaluations: Annotated[
        int | None,
        Setting(
            "Networks to evaluate. Those beyond the limits are free.",
            SEARCH,
            "150; 1000 where the score is computed from sizes or nothing is evaluated; that of the controller's paper;"
            " no bound with `budget_seconds`",
            least=1,
            may_change=True,
        ),
    ] = None
    budget_seconds: Annotated[
        float | None,
        Setting(
            "Time for everything, for example 6m or 2h; about half of it trains, where anything is trained. 0 trains"
            " nothing: the networks inside `model` are sliced, compensated and judged.",
            SEARCH,
            "10m where anything is trained and `evaluations` is not given, else no bound",
            "budget",
            "TIME",
            measure=BUDGET,
            may_change=True,
        ),
    ] = None
    patience: Annotated[
        int | None,
        Setting(
            "Evaluations in a row without a new network on the front that end the search.",
            SEARCH,
            "no end",
            least=1,
            may_change=True,
        ),
    ] = None
    batch: Annotated[
        int,
        Setting(
            "Networks proposed at once. Results depend on it and on the seed, not on the number of workers.",
            SEARCH,
            "1; two for each worker; more where nothing is evaluated",
            least=1,
        ),
    ] = 1
    fidelity: Annotated[
        str,
        Setting("How much of an evaluation is done: full, or halving (all a little, the best of them more).", SEARCH),
    ] = "full"
    train: Annotated[
        str | None,
        Setting(
            "What a budget trains: supernet (all networks together, before they are judged) or winner (the one that was"
            " chosen, alone, after that).",
            TRAINING,
            "winner for the trained weights of a model, else supernet",
        ),
    ] = None
    policy: Annotated[
        str | None,
        Setting(
            "Which networks a step of the training trains, as in `nas train`.", TRAINING, "uniform; widening for mixers"
        ),
    ] = None
    options: Annotated[
        dict[str, Any],
        Setting(
            "Further settings of the training, for example learning_rate=1e-4, see"
            " `supernets.training.settings.TrainingSettings`. Repeatable.",
            TRAINING,
            option="set",
            metavar="NAME=VALUE",
            kind="assignments",
        ),
    ] = field(default_factory=dict)
    compensation: Annotated[
        str | None,
        Setting(
            "What makes up for what is cut out of `model` when networks are judged: sequential (layers are solved anew"
            " in order), prefix (from statistics of the whole model) or none; `--set compensation=sequential`.",
            default="prefix where networks are judged before any training, else none",
        ),
    ] = None
    compensation_images: Annotated[
        int, Setting("Training images that layers are solved on, with `compensation`.", least=LEAST_IMAGES)
    ] = COMPENSATION_IMAGES
    scales: Annotated[
        bool,
        Setting(
            "Whether the network that was chosen inside `model` may look at 1, 1-2 or 1-2-3 scales of an image, where"
            " that is better and within all limits. Needs a limit on params, peak-memory or weight-bytes.",
            SEARCH,
        ),
    ] = False
    device: Annotated[
        str | None,
        Setting(
            "Where networks run, for example cuda.",
            PLACE,
            "the first GPU if there is one, else the CPU",
            kind="device",
            is_recorded=False,
        ),
    ] = None
    workers: Annotated[
        int,
        Setting(
            "Processes that evaluate at the same time; for the score as-vit they share the draws of each network.",
            PLACE,
            "1 in Python, one per processor on the command line",
            least=1,
            is_recorded=False,
        ),
    ] = 1
    executor: Annotated[
        str | None,
        Setting(
            "Where to evaluate: in-process, local (processes), or ray (a cluster).",
            PLACE,
            "in-process for one worker, local for several, ray with an address",
            is_recorded=False,
        ),
    ] = None
    ray_address: Annotated[
        str | None,
        Setting("Address of the Ray cluster to join, for example auto.", PLACE, metavar="ADDRESS", is_recorded=False),
    ] = None
    gpus_per_trial: Annotated[
        float, Setting("Share of a GPU for each worker on Ray.", PLACE, "none", is_recorded=False)
    ] = 0.0

    @property
    def trains(self) -> bool:
        """Whether the run trains a supernet of its own before it searches."""
        trains_something = self.data is not None and self.supernet is None and self.budget_seconds != 0
        return trains_something and self.train != WINNER

    @property
    def finishes(self) -> bool:
        """Whether the run trains the network that it chose, after the search."""
        return self.train == WINNER and self.budget_seconds != 0

    @property
    def pick(self) -> str:
        """The member of the front that is exported: where there is a limit, the most accurate one within it."""
        return "best" if self.bounds else "knee"

    @property
    def uses_labels(self) -> bool:
        """Whether the classes of the images are looked at."""
        return self.labels != WITHOUT_LABELS

    @property
    def judged_by(self) -> str:
        """What networks with trained weights are ranked by."""
        from nas.objectives.objective import ACCURACY, BALANCED, FIDELITY, MEAN_IOU

        if not self.uses_labels:
            return MEAN_IOU if MEAN_IOU in (self.objectives or ()) else FIDELITY
        return BALANCED if BALANCED in (self.objectives or ()) else ACCURACY

    @property
    def evaluates(self) -> bool:
        """Whether anything has to be evaluated: a score, or accuracy."""
        judged_by = (self.score, self.data, self.supernet, self.accuracies)
        return any(given is not None for given in judged_by)

    @property
    def targets(self) -> list[str]:
        """The devices whose latency is predicted, `target` first."""
        from nas.objectives.objective import Objective
        from nas.objectives.quantities import find_quantity

        named = [Objective(name).target for name in self.objectives or ()]
        limited = [name for name in self.limits if find_quantity(name) is None]
        return list(dict.fromkeys([self.target, *(name for name in named if name is not None), *limited]))

    @property
    def bounds(self) -> list[Limit]:
        """All limits: on latencies and further quantities, then on sizes."""
        from nas.objectives.bounds import Limit
        from nas.objectives.quantities import find_quantity
        from nas.records.network import latency_name

        limits = {**({} if self.limit_ms is None else {self.target: self.limit_ms}), **self.limits}
        lower = {self.target: self.focus}
        sizes = {"macs": self.macs, "params": self.params}
        return [
            *(
                Limit(name if find_quantity(name) else latency_name(name), upper, lower.get(name, 0.0) * upper)
                for name, upper in limits.items()
            ),
            *(Limit(name, upper, self.window * upper) for name, upper in sizes.items() if upper is not None),
        ]

    @property
    def objective_names(self) -> list[str]:
        """What is optimised beside what is evaluated, and its name where it was given one."""
        from nas.records.network import latency_name

        return self.objectives or [latency_name(self.target)]

    @property
    def known_quantities(self) -> list[str]:
        """The quantities among the objectives that are not evaluated."""
        from nas.objectives.objective import evaluated_name
        from nas.objectives.quantities import find_quantity

        evaluated = evaluated_name(self.objectives or ())
        return [name for name in self.objectives or () if find_quantity(name) is not None and name != evaluated]

    def to_repeat(self) -> dict[str, Any]:
        """What a new run is given to do the same; the space of a model follows from the model."""
        kept = self.recorded()
        if self.model is not None:
            del kept["space"]
        if self.limit_share is not None:
            del kept["limit_ms"]
        return kept
