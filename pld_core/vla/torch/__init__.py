"""VLAs in PyTorch: pi0 and token VLMs in OpenVLA's way, over transformers and peft (extra ``torch``).

Nothing here is imported before a policy of one of these kinds is asked for.
"""
