"""The console: pages for a browser under `/console`, rendered here, over what the stack's services tell by gRPC.

It keeps nothing of its own: who is logged in is in an encrypted cookie, everything else is asked for with the
visitor's own token. Pages are Jinja2 templates; htmx swaps their parts, uPlot draws curves, `console.js` is the rest.
"""
