"""Experience replay that stores every observation once.

Shapes: ``C`` capacity in rows, ``S`` state, ``A`` action, ``K`` batches, ``B`` batch size.
An episode of ``T`` ticks takes ``T + 1`` consecutive rows (modulo ``C``): row ``t`` holds what was
seen at tick ``t`` and, for ``t < T``, what was done and earned. The next observation of row ``t``
is row ``t + 1``, so no frame is held twice and a truncated end bootstraps from row ``T``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from pld_core.errors import CheckpointError, ConfigError, ContractError, NonFiniteError
from pld_core.types import Episode

_COLUMNS = ("state", "base_action", "action", "residual", "reward", "mask", "mc_return", "remaining")
_NO_SLOT = -1


class Batch(NamedTuple):
    """Transitions, each array ``[B, ...]`` (or ``[K, B, ...]`` from ``sample_many``), float32.

    ``reward`` is the n-step sum, ``discount`` is ``gamma ** k`` for the ``k`` ticks that were summed,
    and 0 where the last of them terminated, so the critic's target is
    ``reward + discount * Q(next_state, next executed action)``.
    """

    state: Any
    base_action: Any
    action: Any
    reward: Any
    discount: Any
    next_state: Any
    next_base_action: Any
    mc_return: Any
    images: Mapping[str, Any]
    next_images: Mapping[str, Any]


class ReplayBuffer:
    """A ring of rows with uniform O(1) sampling of complete transitions.

    gamma discounts the Monte-Carlo and n-step returns. min_q is a lower bound of the value beyond
    a truncated end and completes its Monte-Carlo return; 0 (the recorded return) is right for
    rewards that are never negative, ``reward / (1 - gamma)`` for a cost per tick.
    """

    def __init__(
        self,
        capacity: int,
        state_dim: int,
        action_dim: int,
        image_specs: Mapping[str, tuple[int, int, int]] | None = None,
        gamma: float = 0.99,
        n_step: int = 1,
        min_q: float = 0.0,
    ) -> None:
        if capacity < 2 or state_dim < 1 or action_dim < 1 or n_step < 1:
            raise ConfigError(
                f"Replay needs capacity >= 2 and state_dim, action_dim, n_step >= 1; given {capacity}, "
                f"{state_dim}, {action_dim}, {n_step}."
            )
        if not 0.0 < gamma <= 1.0:
            raise ConfigError(f"gamma is {gamma}; valid is 0 < gamma <= 1.")
        self.capacity, self.state_dim, self.action_dim = capacity, state_dim, action_dim
        self.gamma, self.n_step, self.min_q = gamma, n_step, min_q
        self.image_specs = {name: tuple(shape) for name, shape in (image_specs or {}).items()}
        # np.zeros is lazily committed by the operating system: an unfilled ring costs no memory.
        self._rows: dict[str, np.ndarray] = {
            "state": np.zeros((capacity, state_dim), np.float32),
            "base_action": np.zeros((capacity, action_dim), np.float32),
            "action": np.zeros((capacity, action_dim), np.float32),
            "residual": np.zeros((capacity, action_dim), np.float32),
            "reward": np.zeros(capacity, np.float32),
            "mask": np.zeros(capacity, np.float32),
            "mc_return": np.zeros(capacity, np.float32),
            "remaining": np.zeros(capacity, np.int32),  # ticks to the episode's last row
        }
        self._images = {n: np.zeros((capacity, *s), np.uint8) for n, s in self.image_specs.items()}
        self._head = 0  # next row to write
        self._filled = 0  # rows ever written, at most capacity
        self._count = 0  # complete transitions
        self._index = np.zeros(capacity, np.int64)  # their rows, compact
        self._slot = np.full(capacity, _NO_SLOT, np.int64)  # place of a row in _index

    def __len__(self) -> int:
        """Complete transitions that can be sampled."""
        return self._count

    @property
    def rows(self) -> int:
        """Rows in use: transitions plus one final observation per episode."""
        return self._filled

    @property
    def bytes_per_transition(self) -> int:
        """Bytes of one row, index included; the cost of a transition in a long episode."""
        arrays = [*self._rows.values(), *self._images.values(), self._index, self._slot]
        return sum(a.nbytes // self.capacity for a in arrays)

    # -- writing ---------------------------------------------------------------------------------

    def add(self, episode: Episode) -> None:
        """Store a whole episode; refuses (and writes nothing of) a faulty one."""
        self._check(episode)
        length = len(episode)
        rows = (self._head + np.arange(length + 1)) % self.capacity
        self._forget(rows)
        mask = np.ones(length, np.float32)
        mask[-1] = 0.0 if episode.terminated else 1.0  # truncation is not an end of value
        returns = episode.mc_return(self.gamma)
        if not episode.terminated:
            returns = returns + np.float32(self.min_q) * self.gamma ** np.arange(length, 0, -1).astype(np.float32)
        acted = rows[:-1]
        self._rows["state"][rows] = episode.state
        self._rows["base_action"][rows] = episode.base_action
        self._rows["remaining"][rows] = np.arange(length, -1, -1)
        for name, values in (
            ("action", episode.action),
            ("residual", episode.residual),
            ("reward", episode.reward),
            ("mask", mask),
            ("mc_return", returns),
        ):
            self._rows[name][acted] = values
            self._rows[name][rows[-1]] = 0.0
        for name in self.image_specs:
            self._images[name][rows] = episode.images[name]
        self._index[self._count : self._count + length] = acted
        self._slot[acted] = np.arange(self._count, self._count + length)
        self._count += length
        self._head = int((self._head + length + 1) % self.capacity)
        self._filled = min(self._filled + length + 1, self.capacity)

    def clear(self) -> None:
        """Forget everything; the memory stays."""
        self._slot.fill(_NO_SLOT)
        self._head = self._filled = self._count = 0

    def _forget(self, rows: np.ndarray) -> None:
        """Drop the transitions that start at ``rows`` (about to be overwritten).

        A ring overwrites oldest first, so a row always disappears before its successor does and no
        transition is left that points at a foreign row.
        """
        for row in rows[self._slot[rows] != _NO_SLOT]:
            slot, last = self._slot[row], self._count - 1
            moved = self._index[last]
            self._index[slot], self._slot[moved] = moved, slot
            self._slot[row] = _NO_SLOT
            self._count = last

    def _check(self, episode: Episode) -> None:
        length = len(episode)
        if episode.voided:
            raise ContractError("A voided episode was offered to replay; keep it in the episode store only.")
        if not 1 <= length <= self.capacity - 1:
            raise ContractError(
                f"An episode of {length} ticks needs {length + 1} rows; this replay holds {self.capacity}. "
                "Raise the capacity or shorten the episode."
            )
        expected = {
            "state": (length + 1, self.state_dim),
            "base_action": (length + 1, self.action_dim),
            "action": (length, self.action_dim),
            "residual": (length, self.action_dim),
            "reward": (length,),
        }
        for name, shape in expected.items():
            values = np.asarray(getattr(episode, name))
            if values.shape != shape:
                raise ContractError(f"Episode column {name!r} has shape {values.shape}; replay expects {shape}.")
            if not np.isfinite(values).all():
                tick = int(np.argwhere(~np.isfinite(values))[0][0])
                raise NonFiniteError(f"Episode column {name!r} is not finite at tick {tick}; nothing was stored.")
        for name, size in self.image_specs.items():
            if name not in episode.images:
                raise ContractError(
                    f"Camera {name!r} is missing from the episode (it has {sorted(episode.images)}); "
                    "record images, or use the features encoder."
                )
            frames = episode.images[name]
            if frames.shape != (length + 1, *size) or frames.dtype != np.uint8:
                raise ContractError(
                    f"Camera {name!r} delivered {frames.dtype} {frames.shape}; replay expects uint8 "
                    f"{(length + 1, *size)}."
                )

    # -- reading ---------------------------------------------------------------------------------

    def sample(self, rng: np.random.Generator, n: int) -> Batch:
        """``n`` transitions, uniform with replacement."""
        if self._count == 0:
            raise ContractError("Replay holds no transition yet; add an episode before sampling.")
        return self._gather(self._index[rng.integers(0, self._count, n)])

    def sample_many(self, rng: np.random.Generator, batches: int, n: int) -> Batch:
        """``batches`` independent batches of ``n``, stacked ``[K, B, ...]`` for ``Learner.update``."""
        return _reshape(self.sample(rng, batches * n), (batches, n))

    def _gather(self, rows: np.ndarray) -> Batch:
        columns = self._rows
        steps = np.minimum(self.n_step, columns["remaining"][rows])
        following = (rows + steps) % self.capacity
        final = (following - 1) % self.capacity
        reward = columns["reward"][rows]
        for i in range(1, self.n_step):
            later = columns["reward"][(rows + i) % self.capacity]
            reward = reward + np.float32(self.gamma**i) * np.where(i < steps, later, np.float32(0.0))
        discount = columns["mask"][final] * np.float32(self.gamma) ** steps.astype(np.float32)
        return Batch(
            state=columns["state"][rows],
            base_action=columns["base_action"][rows],
            action=columns["action"][rows],
            reward=reward,
            discount=discount,
            next_state=columns["state"][following],
            next_base_action=columns["base_action"][following],
            mc_return=columns["mc_return"][rows],
            images={name: frames[rows] for name, frames in self._images.items()},
            next_images={name: frames[following] for name, frames in self._images.items()},
        )

    @property
    def states(self) -> np.ndarray:
        """The stored states ``[rows, S]``, in the order of their rows."""
        return self._rows["state"][: self._filled]

    # -- checkpointing ---------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Everything needed to go on bit for bit; only rows in use (views, not copies)."""
        arrays = {name: self._rows[name][: self._filled] for name in _COLUMNS}
        arrays |= {f"image:{name}": frames[: self._filled] for name, frames in self._images.items()}
        arrays["index"] = self._index[: self._count]
        arrays["cursor"] = np.array([self._head, self._filled, self._count, self.capacity], np.int64)
        return arrays

    def load_state_dict(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Inverse of ``state_dict``; the buffer must have the same capacity and columns."""
        wanted = self.state_dict()
        if missing := sorted(set(wanted) ^ set(arrays)):
            raise CheckpointError(f"Saved replay and this one differ in their columns: {', '.join(missing)}.")
        head, filled, count, capacity = (int(v) for v in arrays["cursor"])
        if capacity != self.capacity:
            raise CheckpointError(f"Saved replay has capacity {capacity}, this one {self.capacity}; use the same.")
        targets = self._rows | {f"image:{name}": frames for name, frames in self._images.items()}
        for name, target in targets.items():
            if arrays[name].shape != (filled, *target.shape[1:]):
                raise CheckpointError(
                    f"Saved replay column {name!r} is {arrays[name].shape}; expected {(filled, *target.shape[1:])}."
                )
        for name, target in targets.items():
            target[:filled] = arrays[name]
        self._head, self._filled, self._count = head, filled, count
        self._index[:count] = arrays["index"]
        self._slot.fill(_NO_SLOT)
        self._slot[self._index[:count]] = np.arange(count)


def state_moments(*buffers: ReplayBuffer) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation ``[S]`` of all stored states, for the learner's normaliser."""
    states = np.concatenate([buffer.states for buffer in buffers]).astype(np.float64)
    if not len(states):
        raise ContractError("Replay is empty; there is nothing to normalise by.")
    return states.mean(0).astype(np.float32), states.std(0).astype(np.float32)


def _reshape(batch: Batch, lead: tuple[int, int]) -> Batch:
    def fold(values: np.ndarray) -> np.ndarray:
        return values.reshape(*lead, *values.shape[1:])

    columns = {name: fold(getattr(batch, name)) for name in Batch._fields[:-2]}
    return Batch(
        **columns,
        images={name: fold(v) for name, v in batch.images.items()},
        next_images={name: fold(v) for name, v in batch.next_images.items()},
    )
