"""Reinforcement learning from AI feedback: principles and a judge in; labels, rewards, a policy and evidence out."""

__version__ = "0.1.0"
