"""Answers many askers with one policy: what waits while it computes is its next batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pld_core.errors import ContractError
from pld_core.serve.backends import Question
from pld_core.types import ActionChunk

Answer = ActionChunk | Exception
Compute = Callable[[Sequence[Question]], Sequence[Answer]]


class Batcher:
    """compute: called with at most ``most`` questions on a thread of its own, never twice at once; an exception in
    place of an answer is that asker's alone. Use it inside one event loop, as an asynchronous context.
    """

    def __init__(self, compute: Compute, most: int) -> None:
        self._compute, self._most = compute, most
        self._waiting: list[tuple[Question, asyncio.Future[ActionChunk]]] = []
        self._more = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "policy")

    async def __aenter__(self) -> Batcher:
        self._work = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._work.cancel()
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def ask(self, question: Question) -> ActionChunk:
        """Its answer; raises what ``compute`` answered or raised."""
        answer: asyncio.Future[ActionChunk] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, answer))
        self._more.set()
        return await answer

    async def _run(self) -> None:
        while True:
            await self._more.wait()
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            if not self._waiting:
                self._more.clear()
            batch = [(question, answer) for question, answer in batch if not answer.done()]  # some have gone
            if batch:
                self._settle(batch, await self._answers([question for question, _ in batch]))

    async def _answers(self, questions: Sequence[Question]) -> Sequence[Answer]:
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._thread, self._compute, questions)
            if len(answers) != len(questions):
                raise ContractError(f"The policy answered {len(answers)} of {len(questions)} observations.")
            return answers
        except Exception as fault:  # a policy of anyone's may raise anything; the others are to be served on
            return [fault] * len(questions)

    @staticmethod
    def _settle(batch: Sequence[tuple[Question, asyncio.Future[ActionChunk]]], answers: Sequence[Answer]) -> None:
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
