"""Token files: reading and verifying (`file`), writing in shards and merging (`writer`), and the layers below them."""
