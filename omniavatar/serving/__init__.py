"""Where people and machines meet the pipeline: the command line, the page and its API.

Each file translates a request, calls the pipeline and translates its events back.
"""
