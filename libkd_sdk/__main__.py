"""Run the command line: `python -m libkd_sdk`."""

from .main import main

main()
