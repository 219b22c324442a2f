"""A server with the OpenAI protocol that judges by length, of the standard library alone: `python stub.py` prints its URL."""

from __future__ import annotations

import json
import math
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def logprobs(prompt: str) -> dict[str, float]:
    """Of the labels 1 and 2: the longer of the last two quotations is better; 3 % of the mass is elsewhere."""
    quoted = re.findall(r"(?:^> .*\n?)+", prompt, re.MULTILINE)
    longer = len(quoted[-2]) - len(quoted[-1]) if len(quoted) > 1 else 0
    first = 1.0 / (1.0 + math.exp(-0.1 * longer))
    return {"1": math.log(0.97 * first), "2": math.log(0.97 * (1.0 - first)), "The": math.log(0.02)}


def chat(table: dict[str, float]) -> dict[str, Any]:
    shown = [{"token": token, "logprob": value, "bytes": list(token.encode())} for token, value in table.items()]
    message = {"role": "assistant", "content": "1"}
    return {"message": message, "logprobs": {"content": [{**shown[0], "top_logprobs": shown}]}}


def text(table: dict[str, float]) -> dict[str, Any]:
    return {"text": "1", "logprobs": {"tokens": ["1"], "token_logprobs": [table["1"]], "top_logprobs": [table]}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send({"object": "list", "data": [{"id": "stub", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_chat = self.path.endswith("/chat/completions")
        prompt = "\n\n".join(m["content"] for m in body["messages"]) if is_chat else body["prompt"]
        choice = (chat if is_chat else text)(logprobs(prompt))
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 1, "total_tokens": len(prompt) // 4 + 1}
        self._send(
            {"id": "x", "model": "stub", "choices": [{"index": 0, "finish_reason": "length", **choice}], "usage": usage}
        )

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()
