"""The lab's dialogue task: short requests, benign and harmful, and answers that help, refuse, evade or do harm."""
