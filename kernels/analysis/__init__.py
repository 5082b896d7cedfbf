"""Facts about a program and about its statements: layouts, liveness, schedules."""
