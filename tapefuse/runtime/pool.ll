; A thread pool whose caller never waits for a thread that has not begun to help. Compiled once in a process.
;
; A region is `n` pieces. Every thread of its team has a seat with a share of them, one after the other: the caller the first,
; worker k the one at seat k. So the same rows stay in the same core's caches from one kernel of a loop to the next. The caller
; opens the region, wakes the workers and takes its own pieces from the front, as do all workers that come while the region is
; open. Whoever has none left takes from the back of the others' shares; then the caller closes the region and waits for the
; pieces that others have taken. On a machine whose cores are busy with other programs a worker may come late or never: the
; caller has done its pieces by then. With shares that nobody else touches it would wait for the slowest one to be scheduled.
;
; One region at a time: a second caller, in another thread, runs its pieces alone.

%seat = type { i64, i64, i64, [13 x i64] } ; pieces left: first | end << 32, is its worker inside the region, does it sleep

@seats = internal global [64 x %seat] zeroinitializer, align 128 ; each has cache lines of its own
@size = internal global i64 1                      ; threads, the caller among them
@mutex = internal global [128 x i8] zeroinitializer, align 128
@wakeup = internal global [128 x i8] zeroinitializer, align 128
@busy = internal global i32 0, align 128

%region = type { i64, i64, ptr, ptr, i64, ptr }    ; number, team or 0: closed, function, first argument, stride, data
@region = internal global %region zeroinitializer, align 128

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(ptr)
declare i32 @pthread_mutex_init(ptr, ptr)
declare i32 @pthread_mutex_lock(ptr)
declare i32 @pthread_mutex_unlock(ptr)
declare i32 @pthread_cond_init(ptr, ptr)
declare i32 @pthread_cond_wait(ptr, ptr)
declare i32 @pthread_cond_broadcast(ptr)
declare i32 @sched_yield()
declare i64 @llvm.umin.i64(i64, i64)
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

; Take a piece of a seat's share: from its front, or from its back; -1: there is none left.
define internal i64 @take(ptr %share, i64 %back) nounwind alwaysinline {
entry:
  %before = load atomic i64, ptr %share seq_cst, align 8
  br label %look
look:
  %old = phi i64 [ %before, %entry ], [ %now, %try ]
  %first = and i64 %old, 4294967295
  %end = lshr i64 %old, 32
  %some = icmp ult i64 %first, %end
  br i1 %some, label %try, label %none
try:
  %is_back = icmp ne i64 %back, 0
  %shorter = sub i64 %old, 4294967296
  %later = add i64 %old, 1
  %new = select i1 %is_back, i64 %shorter, i64 %later
  %changed = cmpxchg ptr %share, i64 %old, i64 %new seq_cst seq_cst
  %now = extractvalue { i64, i1 } %changed, 0
  %mine = extractvalue { i64, i1 } %changed, 1
  br i1 %mine, label %taken, label %look
taken:
  %last = sub i64 %end, 1
  %c = select i1 %is_back, i64 %last, i64 %first
  ret i64 %c
none:
  ret i64 -1
}

; run the pieces of the thread's own seat, then those that are left at the others'
define internal void @help(i64 %me, i64 %team) nounwind {
entry:
  %fn.at = getelementptr %region, ptr @region, i32 0, i32 2
  %fn = load ptr, ptr %fn.at
  %first.at = getelementptr %region, ptr @region, i32 0, i32 3
  %first = load ptr, ptr %first.at
  %stride.at = getelementptr %region, ptr @region, i32 0, i32 4
  %stride = load i64, ptr %stride.at
  %data.at = getelementptr %region, ptr @region, i32 0, i32 5
  %data = load ptr, ptr %data.at
  br label %seat
seat:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]       ; how many seats further than the own one
  %around = add i64 %me, %k
  %over = icmp uge i64 %around, %team
  %wrapped = sub i64 %around, %team
  %s = select i1 %over, i64 %wrapped, i64 %around
  %share = getelementptr [64 x %seat], ptr @seats, i64 0, i64 %s
  br label %more
more:
  %c = call i64 @take(ptr %share, i64 %k)
  %some = icmp sge i64 %c, 0
  br i1 %some, label %run, label %next
run:
  call void @pool_piece(ptr %fn, ptr %first, i64 %stride, ptr %data, i64 %c)
  br label %more
next:
  %k1 = add i64 %k, 1
  %again = icmp slt i64 %k1, %team
  br i1 %again, label %seat, label %end
end:
  ret void
}

define internal ptr @worker(ptr %number) nounwind {
entry:
  %me = ptrtoint ptr %number to i64
  %inside = getelementptr [64 x %seat], ptr @seats, i64 0, i64 %me, i32 1
  %asleep = getelementptr [64 x %seat], ptr @seats, i64 0, i64 %me, i32 2
  %team.at = getelementptr %region, ptr @region, i32 0, i32 1
  br label %look
look:
  %seen = phi i64 [ 0, %entry ], [ %seen, %spin ], [ %region, %leave ], [ %seen, %awake ]
  %spins = phi i64 [ 0, %entry ], [ %spins1, %spin ], [ %spent, %leave ], [ 0, %awake ]
  %region = load atomic i64, ptr @region seq_cst, align 8
  %new = icmp ne i64 %region, %seen
  br i1 %new, label %enter, label %wait
enter:
  %was = atomicrmw xchg ptr %inside, i64 1 seq_cst  ; before it looks: the caller closes, then waits for who is inside
  %team = load atomic i64, ptr %team.at seq_cst, align 8
  %welcome = icmp slt i64 %me, %team
  br i1 %welcome, label %work, label %leave
work:
  call void @help(i64 %me, i64 %team)
  br label %leave
leave:
  %spent = phi i64 [ %spins, %enter ], [ 0, %work ] ; regions without it do not keep a worker awake
  store atomic i64 0, ptr %inside release, align 8
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
  %s = atomicrmw xchg ptr %asleep, i64 1 seq_cst
  br label %check
check:
  %now = load atomic i64, ptr @region seq_cst, align 8
  %still = icmp eq i64 %now, %seen
  br i1 %still, label %doze, label %rise
doze:
  %w = call i32 @pthread_cond_wait(ptr @wakeup, ptr @mutex)
  br label %check
rise:
  store atomic i64 0, ptr %asleep seq_cst, align 8
  %u = call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %awake
awake:
  br label %look
}

; start so many workers, 63 at most; how many there are
define i64 @tapefuse_pool_start(i64 %wanted) nounwind {
entry:
  %thread = alloca i64
  %m = call i32 @pthread_mutex_init(ptr @mutex, ptr null)
  %v = call i32 @pthread_cond_init(ptr @wakeup, ptr null)
  %many = icmp sgt i64 %wanted, 63
  %workers = select i1 %many, i64 63, i64 %wanted
  br label %more
more:
  %k = phi i64 [ 0, %entry ], [ %k1, %started ]
  %enough = icmp sge i64 %k, %workers
  br i1 %enough, label %end, label %create
create:
  %k1 = add i64 %k, 1
  %number = inttoptr i64 %k1 to ptr
  %failed = call i32 @pthread_create(ptr %thread, ptr null, ptr @worker, ptr %number)
  %ok = icmp eq i32 %failed, 0
  br i1 %ok, label %started, label %end
started:
  %id = load ptr, ptr %thread
  %d = call i32 @pthread_detach(ptr %id)
  br label %more
end:
  %size = add i64 %k, 1
  store i64 %size, ptr @size
  ret i64 %k
}

; the seats' shares of n pieces
define internal void @deal(i64 %n, i64 %team) nounwind {
entry:
  br label %next
next:
  %k = phi i64 [ 0, %entry ], [ %k1, %next ]
  %first = phi i64 [ 0, %entry ], [ %end, %next ]
  %k1 = add i64 %k, 1
  %all = mul i64 %k1, %n
  %end = udiv i64 %all, %team
  %high = shl i64 %end, 32
  %range = or i64 %first, %high
  %share = getelementptr [64 x %seat], ptr @seats, i64 0, i64 %k
  store atomic i64 %range, ptr %share monotonic, align 8
  %again = icmp slt i64 %k1, %team
  br i1 %again, label %next, label %done
done:
  ret void
}

; wake the workers if one of the team sleeps
define internal void @wake(i64 %team) nounwind {
entry:
  br label %next
next:
  %k = phi i64 [ 1, %entry ], [ %k1, %awake ]
  %more = icmp slt i64 %k, %team
  br i1 %more, label %look, label %done
look:
  %asleep.at = getelementptr [64 x %seat], ptr @seats, i64 0, i64 %k, i32 2
  %asleep = load atomic i64, ptr %asleep.at seq_cst, align 8
  %sleeps = icmp ne i64 %asleep, 0
  br i1 %sleeps, label %call, label %awake
awake:
  %k1 = add i64 %k, 1
  br label %next
call:
  %l = call i32 @pthread_mutex_lock(ptr @mutex)
  %b = call i32 @pthread_cond_broadcast(ptr @wakeup)
  %u = call i32 @pthread_mutex_unlock(ptr @mutex)
  br label %done
done:
  ret void
}

; wait until no worker of the team is inside
define internal void @wait(i64 %team) nounwind {
entry:
  br label %look
look:
  %k = phi i64 [ 1, %entry ], [ %k, %pause ], [ %k, %yield ], [ %k1, %out ]
  %spins = phi i64 [ 0, %entry ], [ %spins1, %pause ], [ %spins1, %yield ], [ %spins, %out ]
  %more = icmp slt i64 %k, %team
  br i1 %more, label %ask, label %done
ask:
  %inside.at = getelementptr [64 x %seat], ptr @seats, i64 0, i64 %k, i32 1
  %inside = load atomic i64, ptr %inside.at seq_cst, align 8
  %is_out = icmp eq i64 %inside, 0
  br i1 %is_out, label %out, label %again
out:
  %k1 = add i64 %k, 1
  br label %look
again:
  %spins1 = add i64 %spins, 1
  %patient = icmp slt i64 %spins1, SPIN
  br i1 %patient, label %pause, label %yield
pause:
  PAUSE
  br label %look
yield:
  %y = call i32 @sched_yield()
  br label %look
done:
  ret void
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
  %fn.at = getelementptr %region, ptr @region, i32 0, i32 2
  store ptr %fn, ptr %fn.at
  %first.at = getelementptr %region, ptr @region, i32 0, i32 3
  store ptr %first, ptr %first.at
  %stride.at = getelementptr %region, ptr @region, i32 0, i32 4
  store i64 %stride, ptr %stride.at
  %data.at = getelementptr %region, ptr @region, i32 0, i32 5
  store ptr %data, ptr %data.at
  %wanted = zext i32 %threads to i64
  %size = load i64, ptr @size
  %there = call i64 @llvm.umin.i64(i64 %wanted, i64 %size)
  %useful = call i64 @llvm.umin.i64(i64 %there, i64 %n)
  %none = icmp eq i64 %useful, 0
  %team = select i1 %none, i64 1, i64 %useful
  call void @deal(i64 %n, i64 %team)
  %team.at = getelementptr %region, ptr @region, i32 0, i32 1
  store atomic i64 %team, ptr %team.at seq_cst, align 8
  %number = atomicrmw add ptr @region, i64 1 seq_cst
  call void @wake(i64 %team)
  call void @help(i64 0, i64 %team)
  store atomic i64 0, ptr %team.at seq_cst, align 8
  call void @wait(i64 %team)
  store atomic i32 0, ptr @busy seq_cst, align 4
  ret void
}
