"""The HTML pages that people look at: one file for each page, templates and one style sheet for all of them."""
