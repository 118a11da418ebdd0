"""The commands of `libkd-sdk`, one file for each."""
