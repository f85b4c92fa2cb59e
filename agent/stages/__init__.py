"""Order the work: probe, advertise, pull, execute, prove, report. One asyncio loop a file, written against ports."""
