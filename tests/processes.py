"""Functions that run in two processes, as distributed training does."""

import faulthandler
import gc
import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIME_LIMIT = 300  # seconds


def in_two_processes(function, *args):
    """Calls `function(rank, *args)` in two processes of one gloo group; raises what they raise."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_begin, args=(port, function, args), nprocs=2)


def _begin(rank, port, function, args):
    faulthandler.dump_traceback_later(TIME_LIMIT, exit=True)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    function(rank, *args)
    # DDP must be gone before its group: as the last owner it frees the group while it holds
    # the GIL, and waits for a thread of gloo that may wait for the GIL
    gc.collect()
    dist.destroy_process_group()
