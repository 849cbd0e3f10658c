"""RoutedModel: what a transformers model becomes when routed experts are attached to it.

The model keeps being what it was (an instance of its class, with `generate`, `Trainer`, pipelines and caches of its
own) and gains a second base class with a handful of methods. Attaching is in `roster.adapters.attach`, each kind of
mixture writes and reads its own folder.

Shape legend: B batch rows, S tokens of this call, D width, E experts.
"""

from __future__ import annotations

import copy
import functools
import inspect
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roster.context import KEPT, Context
from roster.errors import RosterError, nearest
from roster.prompts import Prompt
from roster.routed.auxiliary import add_losses
from roster.routed.beside import TransformersModel
from roster.routed.checkpoint import CarryContext
from roster.routed.deciding import decide, decide_ahead
from roster.routed.history import history_of, new_cache
from roster.routed.inputs import context_of, contexts_of
from roster.routed.mixture import Mixture
from roster.routed.placement import beside
from roster.routed.sharded import gathered
from roster.routed.streams import around_calls
from roster.routed.taps import body_of
from roster.routed.virtual import put_virtual_ahead, read_behind_virtual
from roster.routed.writing import upload
from roster.router import Router
from roster.saving import Wanted
from roster.score import TaskTable

_OWN_INPUTS = ("token_mask", "prompt_mask", "task_ids", "gates")


class RoutedModel(TransformersModel):
    """Mixin of every routed model. `model.roster` holds what is not per layer; see `Mixture`."""

    roster: Mixture

    def forward(
        self,
        *args: Any,
        token_mask: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        task_ids: Tensor | None = None,
        gates: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The base model's forward, with routed experts at work.

        Args:
            token_mask: True for real tokens of this call, [B, S]; needed only with attention masks of 4 dimensions.
            prompt_mask: True for prompt tokens, [B, S], for recipes that route by the prompt; read off the labels
                when there are any, else the first call of a generation is the prompt.
            task_ids: task of each row, [B], -1 for none of `model.roster.tasks`; for recipes that route by task.
            gates: combine weights of the experts for each row, [B, E], in place of what the router would say: a row of
                zeros is answered by the base, one with a single 1 by that expert alone.
            args, kwargs: as the base model takes them.

        Returns:
            As the base model's. In training, with balance parts, it has `aux_loss`, which is in `loss` already where
            there are labels; whoever computes the loss (label smoothing, `compute_loss_func`) adds it.
        """
        mixture = self.roster
        if getattr(self, "_is_replica", False):
            raise RosterError(
                "torch.nn.DataParallel cannot run a routed model, whose layers find their call by the thread they run "
                "in: use DistributedDataParallel (torchrun, accelerate launch)"
            )
        kwargs.update(zip(type(self).input_names, args, strict=False))
        if mixture.virtual is not None and not mixture.generation.extended:
            own = {"token_mask": token_mask, "prompt_mask": prompt_mask, "task_ids": task_ids, "gates": gates}
            return read_behind_virtual(self, kwargs, own)
        context = self._context(kwargs, token_mask, prompt_mask, task_ids)
        if gates is not None:
            self._give(context, gates)
        elif mixture.plan.routes_by_task and not torch.compiler.is_compiling():
            self._check_tasks(task_ids, context.batch)
        if gates is None and (mixture.plan.remembers or mixture.plan.two_passes):
            self._open_history(context, kwargs)
        if context.recorder is not None:
            cache = kwargs.get("past_key_values")
            later = cache is not None and int(cache.get_seq_length()) > 0
            context.recorder.begin(context.input_ids_BS, context.mask_BS, continues=later)
        if self.device.type == "cpu":
            _take_last_whole(kwargs, context)
        as_tuple = kwargs.pop("return_dict", None) is False or not getattr(self.config, "return_dict", True)
        with mixture.slot.use(context):
            self._route_ahead(context, kwargs)
            output = super().forward(**kwargs, return_dict=True)
        if self.training and context.losses:
            output = add_losses(output, context.losses, kwargs.get("labels"), kwargs.get("num_items_in_batch"))
        return output.to_tuple() if as_tuple else output

    def _context(
        self, kwargs: dict[str, Any], token_mask: Tensor | None, prompt_mask: Tensor | None, task_ids: Tensor | None
    ) -> Context:
        mixture = self.roster
        if getattr(self.config, "is_encoder_decoder", False):
            context = contexts_of(kwargs, token_mask)
        else:
            context = context_of(kwargs, token_mask, prompt_mask, mixture.plan.reads_prompt)
        for each in (context, context.decoder):  # traces follow the encoder, where there is one
            if each is not None:
                each.task_ids_B, each.recipe = task_ids, mixture.recipe
                each.processes = mixture.processes if self.training else None
        context.recorder = mixture.recorder
        if mixture.generation.kept is not None:
            context.memory[KEPT] = mixture.generation.kept
        return context

    def _give(self, context: Context, gates_BE: Tensor) -> None:
        wanted = [context.batch, len(self.roster.experts)]
        if list(gates_BE.shape) != wanted:
            raise RosterError(f"gates must be {wanted}, prompts by experts, not {list(gates_BE.shape)}")
        for each in (context, context.decoder):
            if each is not None:
                each.gates_BE = gates_BE.to(self.device)

    def _open_history(self, context: Context, kwargs: dict[str, Any]) -> None:
        """Finds or begins the per-token memory in the KV cache, if this call uses one."""
        use_cache = kwargs.get("use_cache")
        if use_cache is None:
            use_cache = getattr(self.config, "use_cache", False) and not getattr(
                self, "is_activation_checkpointing", False
            )
        if use_cache and kwargs.get("past_key_values") is None and hasattr(self, "generate"):
            kwargs["past_key_values"] = new_cache(self.config)
        cache = kwargs.get("past_key_values")
        if cache is not None:
            layers = self.config.get_text_config().num_hidden_layers
            context.history = history_of(cache, layers, self.roster.plan.two_passes)

    def _route_ahead(self, context: Context, kwargs: dict[str, Any]) -> None:
        """Runs what a recipe decides before the first layer."""
        mixture = self.roster
        given = context.gates_BE is not None
        if mixture.plan.decides and not given:
            decide(self, context, kwargs)
        if mixture.head is None or mixture.plan.decides or given:
            if mixture.router is None:
                return
            if context.decoder is not None:
                context.decoder.memory["route/model"] = mixture.router(self._nothing(context.decoder), context.decoder)
            x = self._nothing(context)
        else:
            reads = self._first_pass if mixture.plan.two_passes else self._embed
            x_BSD = mixture.head(beside(reads(context, kwargs), mixture.head), context)
            x = x_BSD.reshape(-1, x_BSD.shape[-1])
        if mixture.router is not None:
            context.memory["route/model"] = mixture.router(x, context)

    def _nothing(self, context: Context) -> Tensor:
        """What a router reads that reads nothing, [T, 0]."""
        return torch.empty(context.batch * context.length, 0, device=self.device)

    def _embed(self, context: Context, kwargs: dict[str, Any]) -> Tensor:
        if kwargs.get("inputs_embeds") is not None:
            x_BSD: Tensor = kwargs["inputs_embeds"]
        else:
            x_BSD = self.get_input_embeddings()(context.input_ids_BS)
        return x_BSD

    def _first_pass(self, context: Context, kwargs: dict[str, Any]) -> Tensor:
        """The last hidden states [B, S, D] of the base alone, which reads and writes a cache of its own."""
        body = dict(kwargs)
        for key in ("labels", "logits_to_keep", "output_hidden_states", "output_attentions"):
            body.pop(key, None)
        if context.history is not None:
            body["past_key_values"] = context.history.first_pass
        context.off = True
        try:
            with torch.no_grad():
                output = body_of(self)(**body)
        finally:
            context.off = False
        x_BSD: Tensor = output.last_hidden_state
        return x_BSD

    def _check_tasks(self, task_ids: Tensor | None, batch: int) -> None:
        if task_ids is not None and task_ids.shape != (batch,):
            raise RosterError(f"task_ids must have one entry per row, [{batch}], not {list(task_ids.shape)}")
        for module in self.modules():
            if isinstance(module, TaskTable):
                module.check(task_ids)
                return
        known = len(self.roster.tasks)
        if task_ids is None:
            raise RosterError(
                f"recipe {self.roster.recipe!r} needs to know the task of every row: pass task_ids= or tasks="
            )
        if bool(((task_ids < 0) | (task_ids >= known)).any()):
            raise RosterError(
                f"recipe {self.roster.recipe!r}: task ids must be in 0..{known - 1}, not {task_ids.tolist()}"
            )

    def task_ids(self, tasks: Sequence[str | None]) -> Tensor:
        """Ids for rows whose tasks (or, for the recipe `named`, experts) are known by name; None is no task."""
        known = {name: index for index, name in enumerate(self.roster.tasks)}
        for task in tasks:
            if task is not None and task not in known:
                raise RosterError(f"unknown task {task!r}: {nearest(task, known)}")
        return torch.tensor([-1 if task is None else known[task] for task in tasks], device=self.device)

    def inputs(self, *prompts: Prompt) -> dict[str, Tensor]:
        """input_ids and attention_mask [B, S] for `generate`: of texts, or chats as lists of messages."""
        rendered = self.roster.rendering.inputs(prompts)
        return {name: tensor.to(self.device) for name, tensor in rendered.items()}

    def generate(self, *args: Any, tasks: Sequence[str | None] | None = None, **kwargs: Any) -> Any:
        """transformers' `generate`; `tasks=` names the task of each row for recipes that route by task."""
        if tasks is not None:
            kwargs["task_ids"] = self.task_ids(tasks)
        self._check_prompt(args, kwargs)
        self._check_rows(args, kwargs)
        two = getattr(self.config, "is_encoder_decoder", False)
        alone = around_calls(self.get_encoder(), self._encoding, self.roster.slot) if two else nullcontext()
        with self.roster.generation.of(args, kwargs), alone:
            if self.roster.plan.decides:
                decide_ahead(self, args, kwargs)
            if self.roster.virtual is not None:
                put_virtual_ahead(self, args, kwargs)
            return super().generate(*args, **kwargs)

    def _check_prompt(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids"))
        limit = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        if isinstance(ids, Tensor) and limit is not None and ids.shape[-1] > limit:
            raise RosterError(f"the prompt has {ids.shape[-1]} tokens, but the model's context holds {limit}")
        config = kwargs.get("generation_config") or getattr(self, "generation_config", None)
        chunk = kwargs.get("prefill_chunk_size") or getattr(config, "prefill_chunk_size", None)
        if chunk and self.roster.plan.reads_prompt:
            raise RosterError(
                f"recipe {self.roster.recipe!r} decides by the whole prompt at once; leave prefill_chunk_size out"
            )

    def _check_rows(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """One task and one row of the prompt mask per row of the prompts: before beams repeat any of them."""
        given = [*args[:1], *(kwargs.get(name) for name in ("inputs", "input_ids", "inputs_embeds"))]
        prompts = next((each for each in given if isinstance(each, Tensor)), None)
        if prompts is None:
            return
        task_ids, mask = kwargs.get("task_ids"), kwargs.get("prompt_mask")
        if task_ids is not None and list(task_ids.shape) != [len(prompts)]:
            raise RosterError(f"{task_ids.numel()} tasks for {len(prompts)} prompts: name one task per row")
        if mask is not None and mask.shape != prompts.shape[:2]:
            wanted = list(prompts.shape[:2])
            raise RosterError(f"prompt_mask is {list(mask.shape)}, the prompts are {wanted}: they must be alike")

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *args: Any, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As the base prepares them, with what roster wants to know beside what attention wants."""
        mask_BL = kwargs.get("attention_mask")
        # transformers reads this signature, too: without `inputs_embeds` it would refuse to generate from them.
        inputs = super().prepare_inputs_for_generation(input_ids, *args, inputs_embeds=inputs_embeds, **kwargs)
        tokens = inputs.get("input_ids")
        tokens = inputs.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:  # a step of a decoder whose encoder has read the prompt
            if self.roster.plan.routes_by_task:
                inputs["task_ids"] = self.roster.generation.tasks_of(len(inputs["decoder_input_ids"]))
            return inputs
        B, S = tokens.shape[:2]
        if isinstance(mask_BL, Tensor) and mask_BL.dim() == 2:
            inputs["token_mask"] = mask_BL[:, -S:]
        elif mask_BL is None and inputs.get("attention_mask") is not None:
            # transformers drops a mask without padding, and makes one of 4 dimensions for a static cache.
            inputs["token_mask"] = torch.ones(B, S, dtype=torch.bool, device=tokens.device)
        if self.roster.plan.remembers or self.roster.plan.routes_by_task:
            inputs.update(self.roster.generation.inputs(input_ids, B, S))
        return inputs

    @contextmanager
    def _encoding(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[None]:
        """An encoder that `generate` runs by itself, before the model's first call, and whose layers need a context."""
        given = {**dict(zip(("input_ids", "attention_mask"), args, strict=False)), **kwargs}
        tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
        context = self._context(given, None, None, self.roster.generation.tasks_of(len(tokens)))
        with self.roster.slot.use(context):
            self._route_ahead(context, given)
            yield

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, **kw: Any
    ) -> None:
        if gradient_checkpointing_func is None:
            gradient_checkpointing_func = torch.utils.checkpoint.checkpoint
        carrying = CarryContext(gradient_checkpointing_func, self.roster.slot)
        super()._set_gradient_checkpointing(enable, carrying, **kw)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        include_base: bool | None = None,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = "5GB",
        push_to_hub: bool = False,
        **hub: Any,
    ) -> None:
        """Writes one folder that `roster.load` reloads to the same bits; see `roster.saving` for how.

        Args:
            save_directory: where to; a mixture that is already there is replaced, and kept until the new one is whole.
            include_base: whether a base goes along that adapters were attached to; by default when it has no public
                name.
            is_main_process: False writes nothing, for the other processes of a distributed run.
            state_dict: tensors to write instead of the model's own, by name (gathered from a sharded model).
            max_shard_size: of one file of weights.
            push_to_hub: send the folder to the Hugging Face hub, too.
            hub: for `push_to_hub`: repo_id (by default the folder's name) and its other arguments.

        Raises:
            RosterError: the disk is full, another process writes there, or nothing says how to make the model again.
        """
        if hub and not push_to_hub:
            raise RosterError(f"save_pretrained has no use for {', '.join(sorted(hub))} without push_to_hub=True")
        state = gathered(self) if state_dict is None else state_dict  # all processes of a sharded model take part
        if not is_main_process:
            return
        self.roster.save(self, Path(save_directory), Wanted(include_base, state, max_shard_size))
        if push_to_hub:
            upload(Path(save_directory), hub.pop("repo_id", Path(save_directory).name), **hub)

    def __copy__(self) -> Any:
        copied = self.__class__.__new__(self.__class__)
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = self.__class__.__new__(self.__class__)
        memo[id(self)] = copied
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RosterError(
            "a routed model cannot be pickled (torch.save of a whole model does that): write it with save_pretrained, "
            "or torch.save its state_dict()"
        )

    def push_to_hub(self, repo_id: str, *, max_shard_size: int | str = "5GB", **hub: Any) -> str:
        """Writes the folder of `save_pretrained` and sends it to a repository of the Hugging Face hub.

        Args:
            repo_id: of the repository, which is made when it is not there.
            max_shard_size: of one file of weights.
            hub: private, token, and what `HfApi.upload_folder` takes (commit_message, revision, create_pr, ...).
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "mixture"
            self.save_pretrained(folder, max_shard_size=max_shard_size)
            return upload(folder, repo_id, **hub)

    def merge(self, *, task: str | None = None, rank: int | None = None) -> Any:
        """One plain PEFT adapter that does what this mixture does; see `roster.adapters.merging`."""
        return self.roster.merge(self, task, rank)


@functools.cache
def routed_class(base: type[Any]) -> type[Any]:
    """The class of a routed model: the base's class with `RoutedModel` in front."""
    signature = inspect.signature(base.forward)
    names = [name for name in signature.parameters if name != "self"]
    own = inspect.signature(RoutedModel.forward).parameters

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return RoutedModel.forward(self, *args, **kwargs)

    # transformers reads the signature: `generate` refuses unknown inputs by it, `Trainer` drops columns by it.
    kept = [p for p in signature.parameters.values() if p.kind != inspect.Parameter.VAR_KEYWORD]
    rest = [p for p in signature.parameters.values() if p.kind == inspect.Parameter.VAR_KEYWORD]
    known = signature.replace(parameters=kept + [own[name] for name in _OWN_INPUTS] + rest)
    forward.__signature__ = known  # type: ignore[attr-defined]  # where `inspect` looks first
    forward.__doc__ = RoutedModel.forward.__doc__
    members = {"forward": forward, "input_names": tuple(names), "__module__": __name__, "base_class": base}
    # Called as the base is: transformers knows by the name what a model can do (pipelines), and writes it into configs.
    return type(base.__name__, (RoutedModel, base), {**members, "__qualname__": f"Routed{base.__name__}"})


def routers(model: nn.Module) -> Iterator[tuple[str, Router]]:
    """(site name, router) for every place where routes are decided."""
    for module in model.modules():
        if isinstance(module, Router):
            yield module.site, module


def _take_last_whole(kwargs: dict[str, Any], context: Context) -> None:
    """Has the last tokens of a batch taken by their places, which makes them lie together in memory.

    As a slice they do not, and where weights have no gradients torch then multiplies row by row, each time with a copy
    of the whole head: on a small model that takes longer than everything before it.
    """
    last, S = kwargs.get("logits_to_keep"), context.length
    if isinstance(last, int) and 0 < last < S and context.batch > 1 and not torch.compiler.is_compiling():
        kwargs["logits_to_keep"] = torch.arange(S - last, S)
