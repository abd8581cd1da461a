; Runs the launch plan of a program; compiled once in a process, for all programs.
;
; `values`: an array of i64: pointers, sizes and dimensions of one call. `steps`: the plan. A kernel finds its arguments through
; `indices`, positions in `values`. A kernel is cut into as many pieces as its sizes say, whatever the number of threads is, so
; that results do not depend on it. What stands in braces is there when kernels are timed (runtime/launch.py).
;
; A call that is watched (interrupt.ll) asks between kernels, and between pieces of one, whether to stop.

%step = type { ptr, ptr, i64, i64, i64, i64 } ; kernel, indices, rows at, pieces at, flag at (-1: none), status if the flag is set
%job = type { ptr, ptr, ptr, i64, i64, i64, i64 } ; kernel, values, indices, rows, pieces, may it be stopped, is it stopped
%fixed = type { i64, i64 }                    ; 0: the number itself, 1: that pointer of the table, 2: so far into the arena
@numbers = private constant [64 x i64] [NUMBERS]
{stamps_declared}

define internal void @piece(ptr %job, i64 %c) nounwind {
entry:
  %watched.at = getelementptr %job, ptr %job, i32 0, i32 5
  %watched = load i64, ptr %watched.at
  %free = icmp eq i64 %watched, 0
  br i1 %free, label %run, label %look
look:
  %stopped.at = getelementptr %job, ptr %job, i32 0, i32 6
  %stopped = load atomic i64, ptr %stopped.at monotonic, align 8
  %over = icmp ne i64 %stopped, 0
  br i1 %over, label %done, label %who
who:                                                ; helpers must not ask
  %mine = call i64 @tapefuse_watched()
  %helper = icmp eq i64 %mine, 0
  br i1 %helper, label %run, label %ask
ask:
  %answer = call i64 @tapefuse_interrupted()
  %on = icmp eq i64 %answer, 0
  br i1 %on, label %run, label %stop
stop:
  store atomic i64 1, ptr %stopped.at monotonic, align 8
  br label %done
run:
  %kernel = load ptr, ptr %job
  %values.at = getelementptr %job, ptr %job, i32 0, i32 1
  %values = load ptr, ptr %values.at
  %indices.at = getelementptr %job, ptr %job, i32 0, i32 2
  %indices = load ptr, ptr %indices.at
  %rows.at = getelementptr %job, ptr %job, i32 0, i32 3
  %rows = load i64, ptr %rows.at
  %pieces.at = getelementptr %job, ptr %job, i32 0, i32 4
  %pieces = load i64, ptr %pieces.at
  %first = mul i64 %c, %rows
  %lo = udiv i64 %first, %pieces
  %c1 = add i64 %c, 1
  %last = mul i64 %c1, %rows
  %hi = udiv i64 %last, %pieces
  call void %kernel(ptr %values, ptr %indices, i64 %lo, i64 %hi, i64 %c)
  br label %done
done:
  ret void
}

; a task of the thread pool, in gufunc form: some of the pieces
define internal void @task(ptr %args, ptr %dims, ptr %steps, ptr %job) nounwind {
entry:
  %first = load ptr, ptr %args
  %n = load i64, ptr %dims
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %next, label %done
next:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %at = getelementptr i64, ptr %first, i64 %k
  %c = load i64, ptr %at
  call void @piece(ptr %job, i64 %c)
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %n
  br i1 %more, label %next, label %done
done:
  ret void
}

; One kernel in pieces, from within another kernel; 1 if it was stopped between pieces, which it can be if %watched is 1.
define i64 @tapefuse_launch(ptr %kernel, ptr %values, ptr %indices, i64 %rows, i64 %pieces, i64 %watched, ptr %pool, ptr %threads.word) nounwind {
entry:
  %job = alloca %job
  %args = alloca ptr
  %dims = alloca i64
  %strides = alloca i64
  store ptr %kernel, ptr %job
  %job.values = getelementptr %job, ptr %job, i32 0, i32 1
  store ptr %values, ptr %job.values
  %job.indices = getelementptr %job, ptr %job, i32 0, i32 2
  store ptr %indices, ptr %job.indices
  %job.rows = getelementptr %job, ptr %job, i32 0, i32 3
  store i64 %rows, ptr %job.rows
  %job.pieces = getelementptr %job, ptr %job, i32 0, i32 4
  store i64 %pieces, ptr %job.pieces
  %watched.at = getelementptr %job, ptr %job, i32 0, i32 5
  store i64 %watched, ptr %watched.at
  %stopped.at = getelementptr %job, ptr %job, i32 0, i32 6
  store i64 0, ptr %stopped.at
  %cut = icmp sgt i64 %pieces, 1
  br i1 %cut, label %many, label %here
many:
  %threads = load i32, ptr %threads.word
  %parallel = icmp sgt i32 %threads, 1
  br i1 %parallel, label %everywhere, label %here
everywhere:
  store ptr @numbers, ptr %args
  store i64 %pieces, ptr %dims
  store i64 8, ptr %strides
  call void %pool(ptr @task, ptr %args, ptr %dims, ptr %strides, ptr %job, i64 0, i64 1, i32 %threads)
  br label %done
here:
  %c = phi i64 [ 0, %entry ], [ 0, %many ], [ %c1, %here ]
  call void @piece(ptr %job, i64 %c)
  %c1 = add i64 %c, 1
  %left = icmp slt i64 %c1, %pieces
  br i1 %left, label %here, label %done
done:
  %is_stopped = load i64, ptr %stopped.at
  ret i64 %is_stopped
}

; The first values: numbers, pointers of the table, addresses in the arena.
define internal void @fill(ptr %values, ptr %fixed, i64 %n, ptr %pointers, ptr %arena) nounwind {
entry:
  %none = icmp eq i64 %n, 0
  br i1 %none, label %done, label %next
next:
  %k = phi i64 [ 0, %entry ], [ %k1, %put ]
  %kind.at = getelementptr %fixed, ptr %fixed, i64 %k, i32 0
  %kind = load i64, ptr %kind.at
  %number.at = getelementptr %fixed, ptr %fixed, i64 %k, i32 1
  %number = load i64, ptr %number.at
  switch i64 %kind, label %put [ i64 1, label %pointer
                                 i64 2, label %address ]
pointer:
  %pointer.at = getelementptr i64, ptr %pointers, i64 %number
  %pointer.value = load i64, ptr %pointer.at
  br label %put
address:
  %base = ptrtoint ptr %arena to i64
  %address.value = add i64 %base, %number
  br label %put
put:
  %value = phi i64 [ %number, %next ], [ %pointer.value, %pointer ], [ %address.value, %address ]
  %value.at = getelementptr i64, ptr %values, i64 %k
  store i64 %value, ptr %value.at
  %k1 = add i64 %k, 1
  %more = icmp slt i64 %k1, %n
  br i1 %more, label %next, label %done
done:
  ret void
}

; 0, or the status of the first flag found set, or -1: stopped, which happens only before step %writing, the first to write a
; variable, begins. `pool` is null for programs without parallel kernels.
define i64 @tapefuse_run(ptr %values, ptr %steps, i64 %count, i64 %writing, ptr %fixed, i64 %n, ptr %pointers, ptr %arena, ptr %pool, ptr %threads.word) nounwind {
entry:
  %job = alloca %job
  %args = alloca ptr
  %dims = alloca i64
  %strides = alloca i64
  call void @fill(ptr %values, ptr %fixed, i64 %n, ptr %pointers, ptr %arena)
  %watched.at = getelementptr %job, ptr %job, i32 0, i32 5
  %stopped.at = getelementptr %job, ptr %job, i32 0, i32 6
  %may_ask = call i64 @tapefuse_watched()
  %is_watched = icmp ne i64 %may_ask, 0
  {started}
  %none = icmp eq i64 %count, 0
  br i1 %none, label %done, label %look
look:
  %s = phi i64 [ 0, %entry ], [ %s1, %next ]
  %whole_yet = icmp sle i64 %s, %writing
  %asks = and i1 %is_watched, %whole_yet
  br i1 %asks, label %ask, label %step
ask:
  %answer = call i64 @tapefuse_interrupted()
  %on = icmp eq i64 %answer, 0
  br i1 %on, label %step, label %stopped
step:
  %kernel.at = getelementptr %step, ptr %steps, i64 %s, i32 0
  %kernel = load ptr, ptr %kernel.at
  %indices.at = getelementptr %step, ptr %steps, i64 %s, i32 1
  %indices = load ptr, ptr %indices.at
  %rows.index.at = getelementptr %step, ptr %steps, i64 %s, i32 2
  %rows.index = load i64, ptr %rows.index.at
  %rows.at = getelementptr i64, ptr %values, i64 %rows.index
  %rows = load i64, ptr %rows.at
  %pieces.index.at = getelementptr %step, ptr %steps, i64 %s, i32 3
  %pieces.index = load i64, ptr %pieces.index.at
  %pieces.at = getelementptr i64, ptr %values, i64 %pieces.index
  %pieces = load i64, ptr %pieces.at
  %cut = icmp sgt i64 %pieces, 1
  br i1 %cut, label %many, label %whole
whole:
  call void %kernel(ptr %values, ptr %indices, i64 0, i64 %rows, i64 0)
  br label %check
many:
  store ptr %kernel, ptr %job
  %job.values = getelementptr %job, ptr %job, i32 0, i32 1
  store ptr %values, ptr %job.values
  %job.indices = getelementptr %job, ptr %job, i32 0, i32 2
  store ptr %indices, ptr %job.indices
  %job.rows = getelementptr %job, ptr %job, i32 0, i32 3
  store i64 %rows, ptr %job.rows
  %job.pieces = getelementptr %job, ptr %job, i32 0, i32 4
  store i64 %pieces, ptr %job.pieces
  %safe = icmp slt i64 %s, %writing
  %asking = and i1 %is_watched, %safe
  %job.watched = zext i1 %asking to i64
  store i64 %job.watched, ptr %watched.at
  store i64 0, ptr %stopped.at
  %threads = load i32, ptr %threads.word
  %parallel = icmp sgt i32 %threads, 1
  br i1 %parallel, label %everywhere, label %here
everywhere:
  store ptr @numbers, ptr %args
  store i64 %pieces, ptr %dims
  store i64 8, ptr %strides
  call void %pool(ptr @task, ptr %args, ptr %dims, ptr %strides, ptr %job, i64 0, i64 1, i32 %threads)
  br label %complete
here:
  %c = phi i64 [ 0, %many ], [ %c1, %here ]
  call void @piece(ptr %job, i64 %c)
  %c1 = add i64 %c, 1
  %left = icmp slt i64 %c1, %pieces
  br i1 %left, label %here, label %complete
complete:
  %is_stopped = load i64, ptr %stopped.at
  %all = icmp eq i64 %is_stopped, 0
  br i1 %all, label %check, label %stopped
check:
  {stepped}
  %flag.index.at = getelementptr %step, ptr %steps, i64 %s, i32 4
  %flag.index = load i64, ptr %flag.index.at
  %flagged = icmp sge i64 %flag.index, 0
  br i1 %flagged, label %test, label %next
test:
  %flag.at.at = getelementptr i64, ptr %values, i64 %flag.index
  %flag.at = load ptr, ptr %flag.at.at
  %flag = load i8, ptr %flag.at
  %set = icmp ne i8 %flag, 0
  br i1 %set, label %failed, label %next
next:
  %s1 = add i64 %s, 1
  %again = icmp slt i64 %s1, %count
  br i1 %again, label %look, label %done
failed:
  %status.at = getelementptr %step, ptr %steps, i64 %s, i32 5
  %status = load i64, ptr %status.at
  ret i64 %status
stopped:
  ret i64 -1
done:
  ret i64 0
}
