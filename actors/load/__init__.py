"""The load job: what is asked of it, arrivals, phases, the application that it measures.

Not here: tables and figures (`actors.report.result`).
"""
