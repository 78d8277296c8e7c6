"""The one place where backbone, quantizer, allocator and adapter meet."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from peftlab.adapters.contract import Adapted, Adapter
from peftlab.allocators.contract import Allocator, BaseProbe
from peftlab.backbones.contract import Backbone, BackboneSource
from peftlab.backbones.resolve import source_of
from peftlab.backbones.shapes import shapes
from peftlab.errors import OptionError
from peftlab.nn.fused_layers import Fused
from peftlab.nn.last_block import last_block
from peftlab.nn.roles import Site
from peftlab.nn.seeding import generator
from peftlab.nn.surgery import slice_fused
from peftlab.quantizers.contract import Conversion, Quantizer
from peftlab.records.record import RunConfig
from peftlab.registry import create
from peftlab.study.expand import Cell
from peftlab.study.schema import Train
from peftlab.tasks.contract import PreparedTask, Preprocessing, Splits, Task, TextPreprocessing
from peftlab.training.quantization import Batches, QuantizationReport, examine
from peftlab.training.schedule import Schedule

Quantize = Literal["before", "after"]
Look = Callable[[Backbone], BaseProbe]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ingredients:
    """The configured components of an arm x task x backbone."""

    backbone: str
    source: type[BackboneSource]
    task: Task
    adapter: Adapter
    allocator: Allocator | None
    quantizer: Quantizer
    quantize: Quantize = "before"  #: before training the frozen weights, or after it the merged model
    fused: bool = True  #: adapted layers compute base and update together where they can
    read_rows: bool = True  #: the last block is computed for the row that is read of it, where that is known

    @classmethod
    def of_cell(cls, cell: Cell) -> Ingredients:
        """Those of one arm x task x backbone of a study; errors as :meth:`of`."""
        return cls._named_in(cell, f"arms.{cell.arm}")

    @classmethod
    def of_run(cls, config: RunConfig) -> Ingredients:
        """Those that a run names; errors as :meth:`of`."""
        return cls._named_in(config, config.label)

    @classmethod
    def _named_in(cls, asked: Cell | RunConfig, where: str) -> Ingredients:
        return cls.of(
            backbone=asked.backbone,
            task=asked.task,
            adapter=asked.adapter,
            allocator=asked.allocator,
            quantizer=asked.quantizer,
            quantize=asked.quantize,
            where=where,
        )

    @classmethod
    def of(
        cls,
        *,
        backbone: str,
        task: Mapping[str, Any],
        adapter: Mapping[str, Any],
        allocator: Mapping[str, Any] | None,
        quantizer: Mapping[str, Any],
        quantize: str = "before",
        where: str = "",
    ) -> Ingredients:
        """Configured from their forms in a study.

        Raises:
            OptionError: an unknown component or option, or two that do not go together.
            BackboneError: no such backbone.
        """
        prefix = f"{where}." if where else ""
        stored: Quantizer = create("quantizer", quantizer, where=f"{prefix}quantizer")
        configured: Adapter = create("adapter", adapter, where=f"{prefix}adapter")
        found = cls(
            backbone=backbone,
            source=source_of(backbone),
            task=create("task", task, key="kind", where="task"),
            adapter=configured.fitted(stored, where=f"{prefix}adapter"),
            allocator=create("allocator", allocator, where=f"{prefix}allocator") if allocator is not None else None,
            quantizer=stored,
            quantize=quantize,  # pyright: ignore
        )
        found._check_quantization(prefix)
        if found.allocator is not None and not found.adapter.has_rank:
            raise OptionError(
                f"adapter {found.adapter.name!r} has no rank to allocate",
                where=f"{prefix}allocator",
                remedy="remove it, or use an adapter with a rank",
            )
        if found.allocator is not None and found.allocator.needs_triplets and not found.adapter.has_triplets:
            raise OptionError(
                f"allocator {found.allocator.name!r} acts on triplets, and adapter {found.adapter.name!r} has none",
                where=f"{prefix}allocator",
                remedy="use an adapter whose update is a sum of triplets, e.g. `svd`",
            )
        if found.allocator is not None and found.allocator.needs_resizing and not found.adapter.resizable:
            raise OptionError(
                f"allocator {found.allocator.name!r} changes ranks during training, and adapter {found.adapter.name!r} as it is "
                "configured cannot",
                where=f"{prefix}allocator",
                remedy="use `lora` without `dora`",
            )
        if found.allocator is not None and found.allocator.sets_factors and not found.adapter.initialisable:
            raise OptionError(
                f"allocator {found.allocator.name!r} gives the adapter initial values, and adapter {found.adapter.name!r} as it "
                "is configured takes none",
                where=f"{prefix}allocator",
                remedy="use `lora` without `dora`, `init: pissa` or `init: olora`",
            )
        if found.allocator is not None and found.allocator.needs_gradients and found.trains_quantized:
            raise OptionError(
                f"allocator {found.allocator.name!r} needs gradients of the frozen weights, and quantized ones have none",
                where=f"{prefix}allocator",
                remedy="use `quantizer: none`, or an allocator that needs no gradients of the base",
            )
        return found

    def _check_quantization(self, prefix: str) -> None:
        if self.quantize not in get_args(Quantize):
            raise OptionError(f"{self.quantize!r} is no time to quantize", where=f"{prefix}quantize", remedy="before or after")
        if self.trains_quantized and self.adapter.needs_float:
            raise OptionError(
                f"adapter {self.adapter.name!r} cannot stand on quantized weights: {self.adapter.needs_float}",
                where=f"{prefix}quantizer",
                remedy="remove it, or use `quantize: after`, or another adapter",
            )
        if self.quantize == "after" and not self.quantizer.quantizes:
            raise OptionError("there is nothing to quantize with", where=f"{prefix}quantize", remedy="name a quantizer, e.g. bnb")
        if self.quantize == "after" and not self.adapter.mergeable:
            raise OptionError(
                f"adapter {self.adapter.name!r} cannot be merged, so there is no merged model to quantize",
                where=f"{prefix}quantize",
                remedy="use `quantize: before`",
            )

    @property
    def trains_quantized(self) -> bool:
        """Whether the frozen weights are quantized while the adapter trains."""
        return self.quantizer.quantizes and self.quantize == "before"

    @property
    def image_size(self) -> int | None:
        return getattr(self.task, "image_size", None)

    def preprocessing(self) -> Preprocessing | TextPreprocessing:
        """What the task has to know of the backbone.

        Raises:
            BackboneError: a task of texts on a backbone of images, or the other way round.
        """
        if self.task.input_kind == "text":
            return self.source.text_preprocessing(self.backbone, self.task.head)
        return self.source.preprocessing(self.backbone, self.image_size)

    def load_backbone(self, outputs: int, seed: int, device: str = "cpu") -> Backbone:
        """``device``: "cpu", or "meta" for shapes only."""
        if device == "meta":
            return shapes(self.source, self.backbone, outputs=outputs, head=self.task.head, image_size=self.image_size)
        return self.source.load(
            self.backbone, outputs=outputs, head=self.task.head, image_size=self.image_size, seed=seed, device=device
        )

    @property
    def zero_at_start(self) -> bool:
        """Whether outputs equal the backbone's before the first update."""
        return self.adapter.zero_at_start and (self.allocator is None or self.allocator.zero_at_start)

    def cost(self, backbone: Backbone) -> Callable[[Site, int], int]:
        """(site, rank) -> trainable parameters of the adapter there."""
        return lambda site, rank: self.adapter.count(backbone, [site], {site.name: rank})

    def ranks(self, backbone: Backbone, sites: Sequence[Site], measured: Any = None) -> dict[str, int] | None:
        """The starting ranks that the allocator decides; None without one.

        Raises:
            OptionError: its budget does not fit these sites.
        """
        if self.allocator is None:
            return None
        return self.allocator.initial(sites, self.adapter.given_rank, measured, self.cost(backbone))

    def convert(self, backbone: Backbone) -> Conversion:
        """Store the frozen weights in place, slices of fused layers one by one where the adapter stands on slices.

        Raises:
            OptionError: the scheme does not fit a layer.
        """
        if not self.trains_quantized:
            return Conversion()
        if self.adapter.takes_slices:
            slice_fused(backbone.module, self.adapter.sites(backbone))
        return self.quantizer.convert(backbone)

    def deployed(self, adapted: Adapted) -> Backbone:
        """What a trained model is evaluated as where it is quantized after training: the plain merged model, still in float."""
        return dataclasses.replace(adapted.backbone, module=self.adapter.merge(adapted))

    def attach(
        self,
        backbone: Backbone,
        seed: int,
        look: Look | None = None,
        task: PreparedTask | None = None,
        batches: Batches = (),
        ranks: Mapping[str, int] | None = None,
    ) -> Adapted:
        """Quantize the frozen weights, decide the starting ranks, put the adapter on.

        ``look`` lets the allocator see the base; without it (when a run is planned) ranks are equal where it would. With ``task``
        and ``batches`` of it, a hook reports what quantization did.
        """
        found = None
        if self.trains_quantized and task is not None:
            found = examine(backbone, self.quantizer, self.convert, task, batches)
        else:
            self.convert(backbone)
        adapted = self._attach(backbone, seed, look, ranks)
        if self.trains_quantized and (acting := self.quantizer.hook(adapted)) is not None:
            adapted.hooks.append(acting)
        if found is not None and task is not None:
            plain = functools.partial(self.load_backbone, task.info.outputs, seed)
            adapted.hooks.append(QuantizationReport(found, adapted, plain))
        return adapted

    def _attach(self, backbone: Backbone, seed: int, look: Look | None, ranks: Mapping[str, int] | None) -> Adapted:
        if self.allocator is None:
            return self.adapter.attach(backbone, seed=seed)
        sites, measured = self.adapter.sites(backbone), None
        if self.allocator.needs_probe and look is not None:
            slice_fused(backbone.module, sites)
            measured = self.allocator.measure(look(backbone), sites, self.adapter.given_rank)
        adapted = self.adapter.attach(backbone, seed=seed, ranks=ranks or self.ranks(backbone, sites, measured))
        adapted.seed = seed
        if measured is not None or not self.allocator.needs_probe:
            self.allocator.initialise(adapted, measured)
        hook = self.allocator.hook(adapted)
        if hook is not None:
            adapted.hooks.append(hook)
        return adapted

    def build(
        self,
        outputs: int,
        seed: int,
        device: torch.device | str = "cpu",
        look: Look | None = None,
        task: PreparedTask | None = None,
        batches: Batches = (),
        ranks: Mapping[str, int] | None = None,
    ) -> Adapted:
        """The whole model of a run, on its device; ``ranks``: in place of those that its allocator would begin with."""
        backbone = self.load_backbone(outputs, seed)
        backbone.module.to(device)
        adapted = self.attach(backbone, seed, look, task, batches, ranks)
        adapted.module.to(device)
        return self.fuse(adapted)

    def fuse(self, adapted: Adapted) -> Adapted:
        """Fuse its layers in place and leave rows out that nobody reads, if that is wanted."""
        adapted.fused = self.adapter.fuse(adapted) if self.fused else Fused(why="switched off")
        if self.read_rows:
            backbone = adapted.backbone
            layers = {site.parent or site.name for site in backbone.roles.sites}
            adapted.last = last_block(backbone.module, backbone.roles.names, layers)
        return adapted


def base_probe(backbone: Backbone, task: PreparedTask, splits: Splits, train: Train, seed: int) -> BaseProbe:
    """The plain backbone with the batches that training begins with (augmented and in the order of training)."""
    schedule, lengths = Schedule.of(train, len(splits.train)), task.lengths(splits.train)
    device = next(backbone.module.parameters()).device

    def batches(number: int) -> Iterator[dict[str, torch.Tensor]]:
        for step in range(number):
            for part, indices in enumerate(schedule.micro_batches(step, splits.train, seed, lengths)):
                batch = task.batch(indices, generator(seed, "augment", step, part))
                yield {key: value.to(device) for key, value in batch.items()}

    def loss(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        backbone.module.eval()
        return task.loss(backbone.outputs(backbone.module, task.inputs(batch)), batch, train.label_smoothing)

    return BaseProbe(backbone=backbone, batches=batches, inputs=task.inputs, loss=loss)
