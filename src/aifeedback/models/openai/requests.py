"""One question to a server: a reading of labels, a round of votes, or a sampled reply, with its cost settled."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from aifeedback.models import decisions
from aifeedback.models.dialects import Structured, structured_fields
from aifeedback.models.fake import as_text
from aifeedback.models.journal import prompt_hash
from aifeedback.models.journaled import Answered
from aifeedback.models.label_logprobs import LabelSet, label_logprobs, to_follow
from aifeedback.models.openai import wire
from aifeedback.models.openai.batches import Waiting
from aifeedback.models.openai.budget import Charge, Spending
from aifeedback.models.openai.client import Answer, Caller, CallFailed
from aifeedback.models.openai.settings import ServerSettings
from aifeedback.models.verdicts import parse_label
from aifeedback.types import Problem, PromptLike, Reading, Reply, Sampling

T = TypeVar("T")
NO_VOTES = -1e9
"""log of a share of 0 votes: its exponential is exactly 0, and unlike −inf it stays itself in JSON."""
NO_VOTE = frozenset({Problem.EMPTY, Problem.REFUSED, Problem.TRUNCATED, Problem.UNREADABLE})
"""Problems of one written verdict; another one may well be readable."""
PATHS: Mapping[str, str] = {
    "chat": "/chat/completions",
    "completions": "/completions",
    "messages": "/messages",
    "systemone": "/systemone",
    "decisions": "/decisions",
}


class Job(NamedTuple):
    """A prompt and its place in the caller's list."""

    place: int
    prompt: PromptLike
    characters: int


class Asker:
    """Asks one model of one server; everything that is random is drawn from the question itself."""

    def __init__(
        self,
        name: str,
        settings: ServerSettings,
        continuing: wire.Continuing,
        caller: Caller,
        spending: Spending,
        *,
        has_own_defaults: bool = False,
        structured: Structured | None = None,
    ) -> None:
        """``has_own_defaults``: the server samples by settings of its own where a request names none. ``structured``:
        how written verdicts are held to the labels."""
        self.structured: Structured | None = structured
        self.name, self.settings, self.has_own_defaults = name, settings, has_own_defaults
        self.continuing: wire.Continuing = continuing
        self.caller, self.spending = caller, spending

    async def read(self, job: Job, label_set: LabelSet) -> Answered:
        """log P(label) from the top log-probabilities, with a further call where a label may take several tokens."""
        api = self._api(job)
        tally = self._tally(job)
        tables: dict[str, dict[str, float]] = {}
        pending = [""]
        try:
            while pending:
                started = pending.pop(0)
                fields = wire.prompt_fields(job.prompt, api, self.continuing, started)
                answer = await self._call(
                    {**fields, **wire.readout_fields(api, self.settings.top, has_own_defaults=self.has_own_defaults)},
                    api,
                    lambda body: wire.top_table(wire.choice(body), api),
                    job,
                    tally,
                )
                tables[started] = answer.value
                if wire.can_continue(api, self.continuing):
                    pending += to_follow(answer.value, label_set, started)
        except CallFailed as failed:
            return self._unread(job, len(label_set.labels), failed, tally)
        logprobs = label_logprobs(tables, label_set)
        seen = [value for value in logprobs if value is not None]
        reading = Reading(
            logprobs=tuple(logprobs),
            coverage=min(1.0, math.fsum(math.exp(value) for value in seen)) if seen else None,
            prompt_tokens=tally.charge.prompt_tokens,
            completion_tokens=tally.charge.completion_tokens,
            cost_usd=tally.charge.cost_usd,
            problem=None if len(seen) == len(logprobs) else Problem.LABEL_HIDDEN,
        )
        return Answered(job.place, reading, tally.seconds, {**tally.raw(), "top": tables[""]})

    async def decide(self, job: Job, form: decisions.Format, labels: Sequence[str]) -> Answered:
        """log P(label) as a decision model gives it."""
        tally = self._tally(job)
        try:
            answer = await self._call(
                decisions.request(form, as_text(job.prompt), labels),
                form,
                lambda decision: decisions.decided(form, decision, labels),
                job,
                tally,
            )
        except CallFailed as failed:
            return self._unread(job, len(labels), failed, tally)
        charge, decision = tally.charge, answer.value
        reading = Reading(
            logprobs=decision.logprobs,
            coverage=decision.coverage,
            prompt_tokens=charge.prompt_tokens,
            cost_usd=charge.cost_usd,
        )
        return Answered(job.place, reading, tally.seconds, {**tally.raw(), "answers": answer.body.get("answers")})

    async def vote(self, job: Job, labels: Sequence[str]) -> Answered:
        """log of each label's share of n sampled verdicts; ``NO_VOTES`` for a label that no readable one named.

        Verdicts that could not be read count in the number of votes, so coverage tells how many could.
        """
        is_vote = self.settings.readout == "votes"
        sampling = Sampling(
            temperature=self.settings.votes_temperature if is_vote else 0.0, max_new_tokens=self.settings.answer_tokens
        )
        tally = self._tally(job)
        votes: Counter[str] = Counter()
        problems: Counter[Problem] = Counter()
        replies: list[str] = []
        rounds = self.settings.votes if is_vote else 1
        held = structured_fields(self.structured, labels) if self.structured else {}
        waiting: Waiting | None = None
        lost: CallFailed | None = None
        for number in range(rounds):
            try:
                answer = await self._sample(job, sampling.model_copy(update={"seed": number}), tally, held)
            except Waiting as unanswered:  # the other votes go into the same batch
                waiting = unanswered
                continue
            except CallFailed as failed:
                if failed.problem in NO_VOTE:
                    problems[failed.problem] += 1
                    continue
                lost = failed
                if self.settings.batch_api:  # the other votes were submitted with it, and are paid for
                    continue
                break
            replies.append(answer.value.text)
            parsed = parse_label(answer.value.text, labels, finish_reason=answer.value.finish_reason)
            if parsed.value is not None:
                votes[parsed.value] += 1
            else:
                problems[parsed.problem or Problem.UNREADABLE] += 1
        if waiting is not None:
            raise waiting
        if lost is not None:
            return self._unread(job, len(labels), lost, tally)
        raw = {**tally.raw(), "said": replies}
        if problems and (cut := problems[Problem.TRUNCATED]):
            raw.setdefault("causes", []).append(f"{cut} of {rounds} verdicts hit the token limit; raise answer_tokens")
        if not votes:
            return Answered(job.place, _unknown(len(labels), problems.most_common(1)[0][0], tally), tally.seconds, raw)
        reading = Reading(
            logprobs=tuple(math.log(votes[label] / rounds) if votes[label] else NO_VOTES for label in labels),
            coverage=votes.total() / rounds,
            prompt_tokens=tally.charge.prompt_tokens,
            completion_tokens=tally.charge.completion_tokens,
            cost_usd=tally.charge.cost_usd,
        )
        return Answered(job.place, reading, tally.seconds, raw)

    async def reply(self, job: Job, sampling: Sampling) -> Answered:
        """One sampled answer, drawn with a seed made of ``sampling.seed`` and the prompt."""
        tally = self._tally(job)
        text, problem = wire.Text("", "error"), None
        try:
            text = (await self._sample(job, sampling, tally)).value
        except CallFailed as failed:
            problem = failed.problem
        reply = Reply(
            text=text.text,
            finish_reason=text.finish_reason,
            prompt_tokens=tally.charge.prompt_tokens,
            completion_tokens=tally.charge.completion_tokens,
            cost_usd=tally.charge.cost_usd,
            problem=problem,
        )
        return Answered(job.place, reply, tally.seconds, tally.raw(), stays_open=self._is_doubtful(problem))

    def _unread(self, job: Job, labels: int, failed: CallFailed, tally: _Tally) -> Answered:
        unknown = _unknown(labels, failed.problem, tally)
        return Answered(job.place, unknown, tally.seconds, tally.raw(), stays_open=self._is_doubtful(failed.problem))

    def _is_doubtful(self, problem: Problem | None) -> bool:
        """Whether a refusal for length may be about the settings: no prompt was accepted yet."""
        return problem is Problem.TOO_LONG and self.caller.answered == 0

    def _api(self, job: Job) -> wire.Api:
        chosen = self.settings.api
        return wire.path(job.prompt, "auto" if chosen in ("systemone", "decisions") else chosen)

    def _tally(self, job: Job) -> _Tally:
        return _Tally(Charge(self.spending, job.characters))

    async def _sample(
        self, job: Job, sampling: Sampling, tally: _Tally, further: Mapping[str, Any] | None = None
    ) -> Answer[wire.Text]:
        api = self._api(job)
        drawn = hashlib.sha256(prompt_hash(job.prompt) + str(sampling.seed).encode()).digest()
        seed = int.from_bytes(drawn[:4], "big") >> 1
        fields = wire.prompt_fields(job.prompt, api, self.continuing)
        return await self._call(
            {
                **fields,
                **wire.sampling_fields(sampling, seed, has_own_defaults=self.has_own_defaults, api=api),
                **(further or {}),
            },
            api,
            lambda body: wire.at_its_limit(
                wire.text(wire.choice(body, api), api), wire.usage(body), sampling.max_new_tokens
            ),
            job,
            tally,
            seed,
        )

    async def _call(
        self,
        fields: dict[str, Any],
        api: str,
        read: Callable[[dict[str, Any]], T],
        job: Job,
        tally: _Tally,
        drawn: int | None = None,
    ) -> Answer[T]:
        """``drawn`` distinguishes several answers to one request, also where the server takes no seed."""
        max_tokens = fields.get("max_tokens", 0)  # a decision model writes nothing
        body = {"model": self.name, **fields, **self.settings.extra_body}
        if self.settings.max_tokens_name != "max_tokens" and "max_tokens" in body:
            body.setdefault(self.settings.max_tokens_name, body.pop("max_tokens"))
        body = {name: value for name, value in body.items() if value is not None}
        key = f"{prompt_hash(job.prompt).hex()}/{fields.get('seed', '') if drawn is None else drawn}"
        try:
            answer = await self.caller.post(
                PATHS[api],
                body,
                read,
                charge=tally.charge,
                max_tokens=max_tokens,
                key=key,
            )
        except CallFailed as failed:
            tally.count(failed)
            raise
        tally.count(answer)
        for ours, theirs in (("model", "model"), ("fingerprint", "system_fingerprint")):
            if isinstance(answer.body.get(theirs), str):
                tally.server[ours] = answer.body[theirs][:200]
        if answer.batch is not None:
            tally.server["batch"] = answer.batch
        return answer


class _Tally:
    """What one question has used so far, over all its calls and their attempts."""

    def __init__(self, charge: Charge) -> None:
        self.charge = charge
        self.attempts = 0
        self.seconds = 0.0
        self.causes: list[str] = []
        self.server: dict[str, str] = {}

    def count(self, outcome: Answer[Any] | CallFailed) -> None:
        self.attempts += outcome.attempts
        self.seconds += outcome.seconds
        self.causes += outcome.causes

    def raw(self) -> dict[str, Any]:
        """For the journal."""
        record: dict[str, Any] = dict(self.server)
        if self.causes:
            record |= {"attempts": self.attempts, "causes": self.causes}
        return record


def _unknown(labels: int, problem: Problem, tally: _Tally) -> Reading:
    charge = tally.charge
    return Reading(
        logprobs=(None,) * labels,
        prompt_tokens=charge.prompt_tokens,
        completion_tokens=charge.completion_tokens,
        cost_usd=charge.cost_usd,
        problem=problem,
    )
