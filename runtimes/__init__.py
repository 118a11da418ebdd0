"""The engines: a folder for each, with the code that makes its files and the code that runs them."""
