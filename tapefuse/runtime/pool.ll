; A thread pool whose caller never waits for a thread that has not begun to help. Compiled once in a process.
;
; A region is `n` pieces. The caller opens it, wakes the workers and takes pieces itself, one at a time, as do all workers that
; come while it is open; then it closes the region and waits for the pieces that others have taken. On a machine whose cores
; are busy with other programs a worker may come late or never: the caller has done its pieces by then. With a static share
; for every thread it would wait for the slowest one to be scheduled at all.
;
; One region at a time: a second caller, in another thread, runs its pieces alone.

@busy = internal global i32 0
@open = internal global i32 0      ; workers may enter
@inside = internal global i64 0    ; workers that look at the region or work in it
@epoch = internal global i64 0     ; counts regions: what workers watch
@sleepers = internal global i64 0
@mutex = internal global [128 x i8] zeroinitializer, align 16
@wakeup = internal global [128 x i8] zeroinitializer, align 16

@fn = internal global ptr null     ; the region
@first = internal global ptr null
@stride = internal global i64 0
@data = internal global ptr null
@n = internal global i64 0
@next = internal global i64 0
@done = internal global i64 0
@seats = internal global i64 0

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
PAUSE_DECLARATION

; piece number c, in gufunc form
define internal void @pool_piece(ptr %fn, ptr %first, i64 %stride, ptr %data, i64 %c) nounwind {
  %args = alloca ptr
  %dims = alloca i64
  %steps = alloca i64
  %offset = mul i64 %c, %stride
  %at = getelementptr i8, ptr %first, i64 %offset
  store ptr %at, ptr %args
  store i64 1, ptr %dims
  store i64 %stride, ptr %steps
  call void %fn(ptr %args, ptr %dims, ptr %steps, ptr %data)
  ret void
}

; take pieces of the open region until there are none left
define internal void @help() nounwind {
entry:
  %fn = load ptr, ptr @fn
  %first = load ptr, ptr @first
  %stride = load i64, ptr @stride
  %data = load ptr, ptr @data
  %n = load i64, ptr @n
  br label %take
take:
  %c = atomicrmw add ptr @next, i64 1 seq_cst
  %some = icmp slt i64 %c, %n
  br i1 %some, label %run, label %end
run:
  call void @pool_piece(ptr %fn, ptr %first, i64 %stride, ptr %data, i64 %c)
  %d = atomicrmw add ptr @done, i64 1 seq_cst
  br label %take
end:
  ret void
}

define internal ptr @worker(ptr %nothing) nounwind {
entry:
  br label %look
look:
  %seen = phi i64 [ 0, %entry ], [ %seen, %spin ], [ %epoch, %leave ], [ %seen, %awake ]
  %spins = phi i64 [ 0, %entry ], [ %spins1, %spin ], [ 0, %leave ], [ 0, %awake ]
  %epoch = load atomic i64, ptr @epoch seq_cst, align 8
  %new = icmp ne i64 %epoch, %seen
  br i1 %new, label %enter, label %wait
enter:
  %i = atomicrmw add ptr @inside, i64 1 seq_cst
  %is_open = load atomic i32, ptr @open seq_cst, align 4
  %welcome = icmp ne i32 %is_open, 0
  br i1 %welcome, label %sit, label %leave
sit:
  %seat = atomicrmw sub ptr @seats, i64 1 seq_cst
  %seated = icmp sgt i64 %seat, 0
  br i1 %seated, label %work, label %leave
work:
  call void @help()
  br label %leave
leave:
  %o = atomicrmw sub ptr @inside, i64 1 seq_cst
  br label %look
wait:
  %spins1 = add i64 %spins, 1
  %patient = icmp slt i64 %spins1, SPIN
  br i1 %patient, label %spin, label %sleep
spin:
  PAUSE
  br label %look
sleep:
  %l = call i32 @pthread_mutex_lock(ptr @mutex)
  %s = atomicrmw add ptr @sleepers, i64 1 seq_cst
  br label %check
check:
  %now = load atomic i64, ptr @epoch seq_cst, align 8
  %still = icmp eq i64 %now, %seen
  br i1 %still, label %doze, label %rise
doze:
  %w = call i32 @pthread_cond_wait(ptr @wakeup, ptr @mutex)
  br label %check
rise:
  %t = atomicrmw sub ptr @sleepers, i64 1 seq_cst
  %u = call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %awake
awake:
  br label %look
}

; start so many workers; how many there are
define i64 @tapefuse_pool_start(i64 %workers) nounwind {
entry:
  %thread = alloca i64
  %m = call i32 @pthread_mutex_init(ptr @mutex, ptr null)
  %v = call i32 @pthread_cond_init(ptr @wakeup, ptr null)
  br label %more
more:
  %k = phi i64 [ 0, %entry ], [ %k1, %started ]
  %enough = icmp sge i64 %k, %workers
  br i1 %enough, label %end, label %create
create:
  %failed = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr null)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %started, label %end
started:
  %id = load ptr, ptr %thread
  %d = call i32 @pthread_detach(ptr %id)
  %k1 = add i64 %k, 1
  br label %more
end:
  ret i64 %k
}

; As Numba's parallel_for: dims[0] pieces of a function in gufunc form, on at most so many threads.
define void @tapefuse_parallel_for(ptr %fn, ptr %args, ptr %dims, ptr %steps, ptr %data, i64 %i, i64 %a, i32 %threads) nounwind {
entry:
  %n = load i64, ptr %dims
  %first = load ptr, ptr %args
  %stride = load i64, ptr %steps
  %was = cmpxchg ptr @busy, i32 0, i32 1 seq_cst seq_cst
  %mine = extractvalue { i32, i1 } %was, 1
  br i1 %mine, label %begin, label %alone
alone:
  %c = phi i64 [ 0, %entry ], [ %c1, %one ]
  %left = icmp slt i64 %c, %n
  br i1 %left, label %one, label %gone
one:
  call void @pool_piece(ptr %fn, ptr %first, i64 %stride, ptr %data, i64 %c)
  %c1 = add i64 %c, 1
  br label %alone
gone:
  ret void
begin:
  store ptr %fn, ptr @fn
  store ptr %first, ptr @first
  store i64 %stride, ptr @stride
  store ptr %data, ptr @data
  store i64 %n, ptr @n
  store i64 0, ptr @next
  store i64 0, ptr @done
  %wide = zext i32 %threads to i64
  %others = sub i64 %wide, 1
  store i64 %others, ptr @seats
  store atomic i32 1, ptr @open seq_cst, align 4
  %e = atomicrmw add ptr @epoch, i64 1 seq_cst
  %asleep = load atomic i64, ptr @sleepers seq_cst, align 8
  %wake = icmp sgt i64 %asleep, 0
  br i1 %wake, label %call, label %work
call:
  %l = call i32 @pthread_mutex_lock(ptr @mutex)
  %b = call i32 @pthread_cond_broadcast(ptr @wakeup)
  %u = call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %work
work:
  call void @help()
  store atomic i32 0, ptr @open seq_cst, align 4
  br label %wait
wait:
  %spins = phi i64 [ 0, %work ], [ %spins1, %pause ], [ %spins1, %yield ]
  %done = load atomic i64, ptr @done seq_cst, align 8
  %all = icmp sge i64 %done, %n
  %inside = load atomic i64, ptr @inside seq_cst, align 8
  %empty = icmp eq i64 %inside, 0
  %over = and i1 %all, %empty
  br i1 %over, label %end, label %again
again:
  %spins1 = add i64 %spins, 1
  %patient = icmp slt i64 %spins1, SPIN
  br i1 %patient, label %pause, label %yield
pause:
  PAUSE
  br label %wait
yield:
  %y = call i32 @sched_yield()
  br label %wait
end:
  store atomic i32 0, ptr @busy seq_cst, align 4
  ret void
}
