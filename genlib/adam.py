"""torch's Adam, without the import of torch's compiler."""

from inspect import unwrap

import torch


class Adam(torch.optim.Adam):
    """Adam (Kingma & Ba 2014, algorithm 1) as torch has it, to the byte.

    torch wraps these methods so that its compiler leaves them alone, and the wrappers import it at their first call:
    a second and 150 MiB in every process that trains. Nothing is compiled here. No stage declares this file, for it has
    no say in any byte (tests/test_objectives.py).
    """

    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
