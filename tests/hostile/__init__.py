"""Peers that do what no daemon does, over real sockets: scripted ones, and a proxy that damages what daemons say."""
