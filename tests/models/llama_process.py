"""llama.cpp's server on the CPU, from prebuilt wheels: python llama_process.py MODEL.gguf PORT CONTEXT [NAME].

With a NAME, the model has that name and is computed in full precision.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST_S = 1_800


def main() -> None:
    import xllamacpp

    file, port, context, *name = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path, params.port, params.n_ctx = file, int(port), int(context)
    params.n_parallel, params.n_gpu_layers, params.warmup = 1, 0, False
    if name:
        params.model_alias = {name[0]}
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print("listening", server.listening_address, flush=True)
    time.sleep(LONGEST_S)


@contextmanager
def serving(file: Path, log: Path, *, context: int = 512, name: str = "") -> Iterator[str]:
    """The address of a server of this file, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as stream:
        command = [sys.executable, __file__, str(file), str(port), str(context), *([name] if name else [])]
        server = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        _wait_for(f"http://127.0.0.1:{port}/v1/models", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.kill()
        server.wait()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=2)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise AssertionError(log.read_text()[-3000:])


if __name__ == "__main__":
    main()
