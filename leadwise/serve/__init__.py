"""The local page and its JSON API: an ECG file in, its tracing, findings and neighbours out. Nothing of an upload is kept.

settings       what a server is started with, and its limits
server         start and stop: address, token, workers
app            routes; each answer is JSON
safety         checks of every request before its body is read, and headers of every answer
parsers        a pool of processes that read uploads, with limits of time and memory
parser_process what such a process runs; it imports the readers, and no torch
"""
