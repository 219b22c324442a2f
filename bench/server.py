"""What labelling through a server costs on the client: overhead, start, and a soak.

    python bench/server.py overhead [--pairs 2000]     # labels/s with a server that answers instantly, journalled
    python bench/server.py start [--rows 100000]       # seconds from the command's start to its first call
    python bench/server.py restart [--rows 100000]     # seconds of a command that was finished before
    python bench/server.py soak [--judgements 1000000] # rate, memory and open files over many judgements
    python bench/server.py clients                     # requests/s of one core: aiohttp, httpx, the OpenAI SDK

The client has one core; the stub server another, where there is one. A label is both orders of a pair.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aifeedback.data import read_comparisons
from aifeedback.judging.pairwise import JudgeLabeler
from aifeedback.models import connect
from aifeedback.models.fake import FakeModel
from aifeedback.models.journal import Journal
from aifeedback.models.journaled import Journaled
from aifeedback.prompts.judge_prompt import JudgePrompt
from aifeedback.types import Comparison, Completion, Prompt

JUDGE = "helpful-detailed"
WORDS = (
    "the", "quick", "answer", "says", "that", "a", "plan", "needs", "time", "and", "care", "but", "more", "than", "one",
)  # fmt: skip


def comparison(number: int, words: int = 60) -> Comparison:
    """A pair of responses of about ``words`` words each."""
    text = [" ".join(WORDS[(number * 7 + k * (i + 3)) % len(WORDS)] for k in range(words)) for i in range(2)]
    prompt = Prompt.of(f"Question {number}: what should I do about item {number % 97}?")
    first, second = (Completion.of(prompt, part, source=f"policy {i}") for i, part in enumerate(text))
    return Comparison.of(prompt, first, second)


def comparisons(count: int) -> Iterator[Comparison]:
    return (comparison(number) for number in range(count))


# ---------------------------------------------------------------- a server that answers instantly


def stub_body() -> bytes:
    top = [{"token": t, "logprob": p, "bytes": list(t.encode())} for t, p in [("1", -0.5), ("2", -1.2)]]
    top += [{"token": f"t{n}", "logprob": -9.0 - n, "bytes": [48]} for n in range(18)]
    choice = {
        "index": 0,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": "1"},
        "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
    }
    usage = {"prompt_tokens": 500, "completion_tokens": 1, "total_tokens": 501}
    return json.dumps(
        {"id": "x", "object": "chat.completion", "model": "stub", "choices": [choice], "usage": usage}
    ).encode()


class Instant(asyncio.Protocol):
    """HTTP by hand, so that the server is never what is measured; tells the time of its first POST."""

    answer = b""
    posts = 0

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            if head.startswith(b"get "):
                self.transport.write(b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n")
                continue
            if Instant.posts == 0:
                print(f"first {time.time()}", flush=True)
            Instant.posts += 1
            self.transport.write(Instant.answer)


def serve(port: int, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})
    body = stub_body()
    Instant.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )

    async def main() -> None:
        server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", port)
        print("ready", flush=True)
        await server.serve_forever()

    asyncio.run(main())


@contextmanager
def stub() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The instant server as a process of its own, on the last core."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    process = subprocess.Popen(
        [sys.executable, __file__, "serve", str(port), str(cores[-1] if len(cores) > 1 else -1)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        process.kill()
        process.wait()


def one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


# ---------------------------------------------------------------- measurements


def overhead(pairs: int, rounds: int) -> dict[str, Any]:
    """Labels per second and per CPU second of the client, both orders, journalled."""
    rates, cpu_rates = [], []
    with stub() as (url, _):
        one_core()
        for number in range(rounds):
            with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.sqlite") as journal:
                model: Any = connect("openai:stub", base_url=url)
                labeler = JudgeLabeler(Journaled(model, journal), JudgePrompt.load(JUDGE))
                work = list(comparisons(pairs))
                start, cpu = time.perf_counter(), time.process_time()
                preferences = labeler.label(work)
                rates.append(pairs / (time.perf_counter() - start))
                cpu_rates.append(pairs / (time.process_time() - cpu))
                assert all(p.p_first is not None for p in preferences)
                assert journal.head().rows == 2 * pairs
                model.close()
            print(f"round {number}: {rates[-1]:.0f} labels/s, {cpu_rates[-1]:.0f} per CPU second", file=sys.stderr)
    return {
        "labels_per_s": round(statistics.median(rates)),
        "labels_per_cpu_s": round(statistics.median(cpu_rates)),
        "pairs": pairs,
        "rounds": rounds,
    }


def start_time(rows: int) -> dict[str, Any]:
    """Seconds from the start of ``aifeedback label`` on so many rows to its first call, and of that to read the rows."""
    with tempfile.TemporaryDirectory() as name, stub() as (url, server):
        one_core()
        folder = Path(name)
        command = _label(_pairs_file(folder, rows), folder / "labels.jsonl", "openai:stub", "--base-url", url)
        began = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        assert server.stdout is not None
        first = float(server.stdout.readline().split()[1])
        process.kill()
        process.wait()
        start = time.perf_counter()
        read_comparisons(folder / "pairs.jsonl", 0)
        read_s = time.perf_counter() - start
    return {"rows": rows, "first_call_s": round(first - began, 2), "of_that_reading_s": round(read_s, 2)}


def restart_time(rows: int) -> dict[str, Any]:
    """Seconds of ``aifeedback label`` on so many rows with a fake judge, and of the same command once more."""
    with tempfile.TemporaryDirectory() as name:
        one_core()
        folder = Path(name)
        command = _label(_pairs_file(folder, rows), folder / "labels.jsonl", "fake:noisy")
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(round(time.perf_counter() - start, 2))
    return {"rows": rows, "first_s": seconds[0], "again_s": seconds[1]}


def _pairs_file(folder: Path, rows: int) -> Path:
    path = folder / "pairs.jsonl"
    with path.open("w") as file:
        for c in comparisons(rows):
            file.write(json.dumps({"prompt": c.prompt.text, "first": c.first.text, "second": c.second.text}) + "\n")
    return path


def _label(data: Path, out: Path, judge: str, *options: str) -> list[str]:
    request = ["label", "--data", str(data), "--judge", judge, "--prompt", JUDGE, "-o", str(out), *options]
    return [sys.executable, "-m", "aifeedback", *request]


def soak(judgements: int) -> dict[str, Any]:
    """Judges pairs with a fake model through the journal; memory and open files after warm-up and at the end."""
    one_core()
    pairs, seen = judgements // 2, 0
    marks: list[tuple[int, float, int]] = []
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.sqlite") as journal:
        labeler = JudgeLabeler(Journaled(FakeModel("noisy"), journal), JudgePrompt.load(JUDGE))
        start, cpu = time.perf_counter(), time.process_time()
        for preference in labeler.label_each(comparisons(pairs)):
            assert preference.p_first is not None
            seen += 2
            if seen % max(judgements // 20, 2) == 0:
                gc.collect()
                marks.append((seen, _memory_mb(), len(os.listdir("/proc/self/fd"))))
                print(*marks[-1], f"{seen / (time.perf_counter() - start):.0f}/s", file=sys.stderr)
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - cpu
        assert journal.head().rows == 2 * pairs
        began = time.perf_counter()
        journal.verify()
        verify_s = time.perf_counter() - began
        size = sum(f.stat().st_size for f in Path(folder).iterdir())
    warm, last = marks[len(marks) // 10], marks[-1]
    return {
        "judgements": 2 * pairs,
        "per_s": round(2 * pairs / seconds),
        "per_cpu_s": round(2 * pairs / cpu_s),
        "memory_mb_after_warm_up": round(warm[1], 1),
        "memory_mb_at_the_end": round(last[1], 1),
        "memory_growth_percent": round(100 * (last[1] / warm[1] - 1), 2),
        "open_files": sorted({mark[2] for mark in marks}),
        "verify_s": round(verify_s, 1),
        "bytes_per_row": round(size / (2 * pairs)),
    }


def _memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def clients(requests: int) -> dict[str, Any]:
    """Requests per CPU second of one core for bare HTTP clients, same body, 32 at once."""
    result: dict[str, Any] = {}
    body = {"model": "m", "messages": [{"role": "user", "content": "hello " * 200}], "max_tokens": 1, "logprobs": True}

    async def timed(one: Callable[[], Awaitable[Any]]) -> dict[str, int]:
        await one()
        left = iter(range(requests))

        async def worker() -> None:
            for _ in left:
                await one()

        start, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[worker() for _ in range(32)])
        return {
            "per_s": round(requests / (time.perf_counter() - start)),
            "per_cpu_s": round(requests / (time.process_time() - cpu)),
        }

    async def measure(url: str) -> None:
        import aiohttp

        async with aiohttp.ClientSession() as session:

            async def with_aiohttp() -> Any:
                async with session.post(f"{url}/chat/completions", data=json.dumps(body)) as response:
                    return json.loads(await response.read())

            result["aiohttp"] = await timed(with_aiohttp)
        import httpx

        async with httpx.AsyncClient() as client:

            async def with_httpx() -> Any:
                return (await client.post(f"{url}/chat/completions", content=json.dumps(body))).json()

            result["httpx"] = await timed(with_httpx)
        import openai

        sdk = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0)

        async def with_sdk() -> Any:
            return await sdk.chat.completions.with_raw_response.create(**body)

        result["openai"] = await timed(with_sdk)

    with stub() as (url, _):
        one_core()
        asyncio.run(measure(url))
    return result


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        core = int(sys.argv[3])
        return serve(int(sys.argv[2]), core if core >= 0 else None)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "start", "restart", "soak", "clients", "all"])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--judgements", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--json", type=Path, help="write the figures here")
    args = parser.parse_args()
    runs: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": lambda: overhead(args.pairs, args.rounds),
        "start": lambda: start_time(args.rows),
        "restart": lambda: restart_time(args.rows),
        "soak": lambda: soak(args.judgements),
        "clients": lambda: clients(args.requests),
    }
    figures: dict[str, Any] = {"machine": {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}}
    for name in runs if args.what == "all" else [args.what]:
        figures[name] = runs[name]()
    print(json.dumps(figures, indent=2))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return None


if __name__ == "__main__":
    main()
