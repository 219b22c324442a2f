"""The settings of a server: its address, key, limits, and how label probabilities are read from it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from aifeedback.config import Config
from aifeedback.errors import ModelError
from aifeedback.models.dialects import named_headers
from aifeedback.models.openai.client import Limits
from aifeedback.models.openai.wire import TOP, Continuing

Readout = Literal["logprobs", "votes", "parsed"]
OPENAI_URL = "https://api.openai.com/v1"
ANTHROPIC_URL = "https://api.anthropic.com/v1"
ANTHROPIC_VERSION = "2023-06-01"
URL_VARIABLE = "OPENAI_BASE_URL"
_CONTINUING: dict[str, Continuing] = {"vllm": "flags", "sglang": "flags", "llamacpp": "native"}
_VENDORS = (
    "gpt|claude|gemini|gemma|llama|qwen|mistral|deepseek|command|phi|falcon|olmo|granite|yi|glm|grok|nemotron|kimi"
)
_LINEAGE = {
    "vicuna": "llama", "alpaca": "llama", "tulu": "llama", "mixtral": "mistral", "ministral": "mistral",
    "magistral": "mistral", "qwq": "qwen", "chatglm": "glm", "c4ai": "command", "chatgpt": "gpt",
    "codellama": "llama", "codegemma": "gemma", "codeqwen": "qwen", "codestral": "mistral", "o1": "gpt", "o3": "gpt", "o4": "gpt",
}  # fmt: skip


class ServerSettings(Config):
    """How a server is talked to."""

    base_url: str = Field(default_factory=lambda: os.environ.get(URL_VARIABLE) or OPENAI_URL)
    """As OPENAI_BASE_URL says when not given."""
    api: Literal["auto", "chat", "completions", "messages", "systemone", "decisions"] = "auto"
    """auto: messages to the chat endpoint, plain text to the completions endpoint. The last three are what anthropic:,
    systemone: and decisions: set."""
    readout: Readout = "logprobs"
    """votes and parsed are for servers that give no log-probabilities."""
    top: int = Field(default=TOP, ge=1)
    """How many log-probabilities to ask for; OpenAI's completions endpoint gives 5."""
    either_space: bool = True
    """A label counts with a space before it too, since the tokenizer is not seen."""
    votes: int = Field(default=8, ge=1)
    votes_temperature: float = Field(default=1.0, gt=0.0)
    answer_tokens: int = Field(default=256, ge=1)
    """Length limit of a vote or a written verdict."""
    structured: Literal["off", "auto", "choice", "schema"] = "off"
    """votes and parsed: hold the answer to the labels. choice: guided_choice (vLLM) or regex (SGLang). schema: a JSON
    object, by response_format. auto: as the server is known to offer, else off. Leave it off for a judge that reasons."""
    continuing: Literal["auto", "flags", "native", "fold"] = "auto"
    """How the chat endpoint continues a started answer (models.openai.wire); auto goes by what the server says it is."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Further fields of every request; null leaves a field out (``{seed: null}``)."""
    headers: dict[str, str] = Field(default_factory=dict)
    """Further headers of every request. ``$NAME`` as a value is read from the environment variable NAME."""

    @field_validator("headers")
    @classmethod
    def _secrets_are_named(cls, value: dict[str, str]) -> dict[str, str]:
        return named_headers(value)

    api_version: str | None = None
    """Azure: sent as ``api-version`` with every request, and the key as ``api-key``."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is in no setting, log or record."""
    revision: str | None = None
    """Says which weights the server runs, where you know better than it does."""
    family: str | None = None
    """Of the model, for the audit's independence check; guessed from its name when not given."""
    context_window: int | None = Field(default=None, ge=1)
    probe: bool = True
    """Ask the server what it runs (GET /models) before the first question; False: nothing is sent before."""
    warm: bool = True
    """Send the first prompt of each shared beginning ahead of the others, for the server's prefix cache."""
    prices: str | None = None
    """A price table (YAML); the shipped one when not given."""
    cap_usd: float | None = Field(default=None, gt=0.0)
    """Spend cap over this run and what ``spent_usd`` says of earlier ones."""
    spent_usd: float = Field(default=0.0, ge=0.0)
    batch_api: bool = False
    """Submit calls as batches: the command stops, and the same command collects the answers once they are there."""
    batch_folder: str | None = None
    """Where records of submitted batches are kept; commands and recipes keep them beside their journal."""
    batch_requests: int | None = Field(default=None, ge=1)
    """Most requests in one batch, for accounts with a limit; as many as the format takes by default."""
    limits: Limits = Limits()


def require_effect(settings: ServerSettings, scheme: str) -> None:
    """Raises ModelError naming every setting that was given and changes nothing beside the others."""
    written, decides = settings.readout != "logprobs", settings.api in ("systemone", "decisions")
    asks = f"{scheme}:" if decides or settings.api == "messages" else f"readout '{settings.readout}'"
    batched = "batch_api"
    unused: dict[str, str] = {}
    if written or decides:
        unused |= dict.fromkeys(("top", "either_space"), asks)
    if settings.readout != "votes":
        unused |= dict.fromkeys(("votes", "votes_temperature"), asks)
    if not written:
        unused |= dict.fromkeys(("answer_tokens", "structured"), asks)
    if decides or settings.api in ("completions", "messages"):
        unused |= dict.fromkeys(("max_tokens_name",), asks) if settings.api != "completions" else {}
        unused |= dict.fromkeys(("continuing",), f"{settings.api} endpoint") if settings.api != "messages" else {}
    if settings.batch_api:
        unused |= dict.fromkeys(("warm",), batched)
    else:
        unused |= dict.fromkeys(("batch_folder", "batch_requests"), "single calls (batch_api is off)")
    names = {name for name in settings.model_fields_set if getattr(settings, name) != _default(type(settings), name)}
    without_effect = {name: why for name, why in unused.items() if name in names}
    if settings.batch_api:
        pressing = ("concurrency", "requests_per_minute", "tokens_per_minute", "deadline_s", "dead_after")
        limits = settings.limits
        without_effect |= {name: batched for name in pressing if getattr(limits, name) != _default(Limits, name)}
    if without_effect:
        shown = ", ".join(f"{name} (with {why})" for name, why in without_effect.items())
        raise ModelError(f"no effect: {shown}", key=next(iter(without_effect)), fix="leave out what has no effect")


def _default(schema: type[Config], name: str) -> Any:
    return schema.model_fields[name].get_default(call_default_factory=True)


def checked_url(base_url: str) -> str:
    """The URL without a slash at its end; raises ModelError for anything but http(s)://host…, and for a key in it."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(f"{base_url!r} is not the address of a server", key="base_url", fix="http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query:
        raise ModelError(
            "the address of a server must not hold a name, a password or a query",
            key="base_url",
            fix="put the key into an environment variable and name it in api_key_env",
        )
    url = base_url.rstrip("/")
    if endpoint := re.search(r"/(?:chat/completions|completions|messages|responses|systemone|decisions)$", url):
        raise ModelError(
            f"{base_url!r} is the address of an endpoint, not of the server",
            key="base_url",
            fix=f"leave {endpoint[0]} out: {url[: endpoint.start()]}",
        )
    return url


def key_of(settings: ServerSettings) -> str | None:
    """The API key from the environment; None for a server of your own that needs none."""
    key = os.environ.get(settings.api_key_env) or None
    if key is None and settings.base_url in (OPENAI_URL, ANTHROPIC_URL):
        raise ModelError(
            f"the environment variable {settings.api_key_env} is not set",
            key="api_key_env",
            fix=f"export {settings.api_key_env}=…, or name a server of your own: base_url, or the variable {URL_VARIABLE}",
        )
    return key


def headers_of(settings: ServerSettings, key: str | None) -> dict[str, str]:
    """The headers of every request, with the key in the form that the server takes. Raises ModelError for a header
    that names an environment variable that is not set."""
    headers = {}
    if settings.api == "messages":
        headers = {"anthropic-version": ANTHROPIC_VERSION, **({"x-api-key": key} if key is not None else {})}
    elif key is not None:
        headers = {"api-key": key} if settings.api_version else {"Authorization": f"Bearer {key}"}
    for name, value in settings.headers.items():
        if value.startswith("$"):
            secret = os.environ.get(value[1:])
            if secret is None:
                what = f"the environment variable {value[1:]} is not set"
                raise ModelError(what, key=f"headers.{name}", fix=f"export {value[1:]}=…")
            value = secret
        headers[name] = value
    return headers


def listed(body: bytes) -> list[dict[str, Any]] | None:
    """The models that ``GET /models`` lists; None: not readable."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    entries = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(entries, list):
        return []
    return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def described(models: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """What a server reports about a model, without fields that change on restart; empty if the model is not listed.

    The only model of a server is the one that answers, whatever name it is given: ``id`` says how it is listed.
    """
    model = next((entry for entry in models if entry["id"] == name), None)
    by_other_name = model is None and len(models) == 1
    if by_other_name:
        model = models[0]
    if model is None:
        return {}
    meta = model.get("meta") if isinstance(model.get("meta"), dict) else {}
    window = model.get("max_model_len") or model.get("context_length") or (meta or {}).get("n_ctx_train")
    return {
        "owned_by": str(model.get("owned_by", "")),
        "root": str(model.get("root") or ""),
        "context_window": window if isinstance(window, int) and window > 0 else None,
        **({"id": model["id"]} if by_other_name else {}),
    }


def continuing_of(reported: dict[str, Any]) -> Continuing:
    """How a server continues a started answer, by who it says it is; unknown ones are taken not to."""
    return _CONTINUING.get(str(reported.get("owned_by", "")).lower(), "fold")


def family_of(name: str) -> str:
    """A model's family, guessed from its name ("meta-llama/Llama-3.1-8B" → "llama"), else the name itself."""
    words = re.findall(r"[a-z]+\d?", name.lower().rpartition("/")[2])
    for word in words:
        stem = re.sub(r"\d$", "", word)
        if word in _LINEAGE or stem in _LINEAGE:
            return _LINEAGE.get(word) or _LINEAGE[stem]
        vendor = re.match(_VENDORS, word)
        if vendor:
            return vendor[0]
    return name.lower()
