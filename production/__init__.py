"""A small reference application: from data to a watched model in service, a command for each step.

``python -m production.NAME --help`` says what a step does. All of them read one file, ``settings.toml``.
"""
