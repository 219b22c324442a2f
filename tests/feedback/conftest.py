"""Generated cases take as long as they take: the machine may be busy."""

from hypothesis import settings

settings.register_profile("feedback", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("feedback")
