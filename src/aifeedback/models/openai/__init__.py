"""OpenAI-compatible servers as models. Needs aiohttp, not torch."""
