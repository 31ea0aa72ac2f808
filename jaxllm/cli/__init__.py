"""The command line: one small file per command, and the only folder that prints.

A command's module has two names:

- `Options`, a frozen keyword-only dataclass. A field without a default is a positional
  argument, any other is `--field VALUE`, a nested dataclass gives `--field.key VALUE`.
  The docstring of the class opens the help; the one under each field is its gloss.
- `main(argv) -> int`, which begins with `arguments.parse(Options, argv, "jaxllm x")`,
  does the work, prints through `console`, and returns the exit status. A mistake by
  the user is a JaxllmError; `jaxllm.cli.main` prints it as one line and returns 2.

Anything that imports jax is imported inside `main`, after the arguments have been
read: help and mistakes are answered at once. A command is registered by its line in
`jaxllm.cli.main.COMMANDS`.
"""
