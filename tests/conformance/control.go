package main

import "context"

func control(ctx context.Context, r *run) {}
