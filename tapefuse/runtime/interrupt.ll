; Sixth part of the entry (see entry.ll): signals while a long program runs in the main thread, which alone handles them.
;
; The launcher asks @tapefuse_interrupted before each kernel, and before each piece of one, as long as no kernel that writes a
; variable has begun. Each $poll ns the answer takes the interpreter's lock and lets signal handlers run. Variables are lent
; meanwhile: handlers and other threads find whole values in them. A handler that raises ends the call; so does a variable
; that somebody assigned or holds afterwards, and the call is made again, without asking.

%watch = type { ptr, ptr, ptr, i64 }               ; thread state, table, arrays, when to look next
@watch = internal global %watch zeroinitializer
@watch.owner = internal global i64 0               ; the thread that may ask; 0: none

declare i64 @PyThread_get_thread_ident()
declare i32 @PyErr_CheckSignals()
declare ptr @PyErr_Occurred()
declare i32 @clock_gettime(i32, ptr)

define internal i64 @now() nounwind {
  %time = alloca { i64, i64 }
  %ignored = call i32 @clock_gettime(i32 $clock, ptr %time)
  %seconds = load i64, ptr %time
  %rest.at = getelementptr { i64, i64 }, ptr %time, i32 0, i32 1
  %rest = load i64, ptr %rest.at
  %whole = mul i64 %seconds, 1000000000
  %now = add i64 %whole, %rest
  ret i64 %now
}

; Whether a call of so much work may be stopped: it is in the main thread, and long.
define internal i1 @is_watched(ptr %table, i64 %work) {
entry:
  %long = icmp sge i64 %work, $watched_work
  br i1 %long, label %look, label %no
look:
  %main.at = call ptr @pointer(ptr %table, i64 $main_thread)
  %main = load i64, ptr %main.at
  %me = call i64 @PyThread_get_thread_ident()
  %same = icmp eq i64 %me, %main
  ret i1 %same
no:
  ret i1 false
}

; From here to @end_watch this thread may ask.
define internal void @start_watch(ptr %thread, ptr %table, ptr %arrays) {
  %now = call i64 @now()
  %due = add i64 %now, $poll
  %due.at = getelementptr %watch, ptr @watch, i32 0, i32 3
  store i64 %due, ptr %due.at
  call void @put(ptr @watch, i64 0, ptr %thread)
  call void @put(ptr @watch, i64 1, ptr %table)
  call void @put(ptr @watch, i64 2, ptr %arrays)
  %me = call i64 @PyThread_get_thread_ident()
  store atomic i64 %me, ptr @watch.owner monotonic, align 8
  ret void
}

define internal void @end_watch() {
  store atomic i64 0, ptr @watch.owner monotonic, align 8
  ret void
}

; For launchers: may this thread ask?
define i64 @tapefuse_watched() alwaysinline {
entry:
  %owner = load atomic i64, ptr @watch.owner monotonic, align 8
  %nobody = icmp eq i64 %owner, 0
  br i1 %nobody, label %no, label %compare
compare:
  %me = call i64 @PyThread_get_thread_ident()
  %same = icmp eq i64 %me, %owner
  %yes = zext i1 %same to i64
  ret i64 %yes
no:
  ret i64 0
}

; For launchers, if this thread may ask: 1 to stop.
define i64 @tapefuse_interrupted() {
entry:
  %due.at = getelementptr %watch, ptr @watch, i32 0, i32 3
  %due = load i64, ptr %due.at
  %now = call i64 @now()
  %early = icmp slt i64 %now, %due
  br i1 %early, label %no, label %ask
ask:
  %thread = call ptr @pointer(ptr @watch, i64 0)
  %table = call ptr @pointer(ptr @watch, i64 1)
  %arrays = call ptr @pointer(ptr @watch, i64 2)
  call void @end_watch()                            ; handlers may call programs
  call void @PyEval_RestoreThread(ptr %thread)
  call void @lend_states(ptr %table, ptr %arrays)
  %raised = call i32 @PyErr_CheckSignals()
  %quiet = icmp eq i32 %raised, 0
  br i1 %quiet, label %back, label %go
back:
  %whole = call i1 @take_back(ptr %table, ptr %arrays)
  br label %go
go:
  %on = phi i1 [false, %ask], [%whole, %back]
  call void @leave(ptr %table, i64 1)
  %same_thread = call ptr @PyEval_SaveThread()
  call void @start_watch(ptr %thread, ptr %table, ptr %arrays)
  %stop = xor i1 %on, true
  %answer = zext i1 %stop to i64
  ret i64 %answer
no:
  ret i64 0
}

; One more, or one less, call without the interpreter's lock that has taken variables: a fork waits until there are none.
define internal void @leave(ptr %table, i64 %change) {
entry:
  %n = call i64 @word(ptr %table, i64 $n_written)
  %none = icmp eq i64 %n, 0
  br i1 %none, label %done, label %count
count:
  %away = call ptr @pointer(ptr %table, i64 $away)
  %before = atomicrmw add ptr %away, i64 %change seq_cst
  br label %done
done:
  ret void
}

; Put written arrays back into their variables, and hold them: nobody else can write to them in place.
define internal void @lend_states(ptr %table, ptr %arrays) {
entry:
  call void @leave(ptr %table, i64 -1)
  %inputs = call i64 @word(ptr %table, i64 $n_inputs)
  %n = call i64 @word(ptr %table, i64 $n_states)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %done]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %end
look:
  %slot = call ptr @written_slot(ptr %table, i64 %k)
  %reads = icmp eq ptr %slot, null
  br i1 %reads, label %done, label %give
give:
  %there = load ptr, ptr %slot
  %free = icmp eq ptr %there, null
  br i1 %free, label %fill, label %done
fill:
  %index = add i64 %inputs, %k
  %array = call ptr @pointer(ptr %arrays, i64 %index)
  call void @Py_IncRef(ptr %array)
  store ptr %array, ptr %slot
  br label %done
done:
  %k1 = add i64 %k, 1
  br label %next
end:
  ret void
}

; Take them again, unless one was assigned or is held. Those that are not taken stay lent: @give_states copes with both.
define internal i1 @take_back(ptr %table, ptr %arrays) {
entry:
  %inputs = call i64 @word(ptr %table, i64 $n_inputs)
  %n = call i64 @word(ptr %table, i64 $n_states)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %done]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %yes
look:
  %slot = call ptr @written_slot(ptr %table, i64 %k)
  %reads = icmp eq ptr %slot, null
  br i1 %reads, label %done, label %compare
compare:
  %index = add i64 %inputs, %k
  %array = call ptr @pointer(ptr %arrays, i64 %index)
  %there = load ptr, ptr %slot
  %same = icmp eq ptr %there, %array
  %count = load i32, ptr %array                     ; see read_states
  %two = icmp eq i32 %count, 2
  %ours = and i1 %same, %two
  br i1 %ours, label %take, label %no
take:
  store ptr null, ptr %slot
  call void @Py_DecRef(ptr %array)
  br label %done
done:
  %k1 = add i64 %k, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; After a call: if a thread waits for a variable that it had, wait until that thread has seen it, or 5 ms. Calls in a row
; would else leave no moment between them in which others could run.
define internal void @let_in(ptr %table) {
entry:
  %wanted.at = call ptr @pointer(ptr %table, i64 $wanted)
  %n = call i64 @word(ptr %table, i64 $n_states)
  %states = call ptr @pointer(ptr %table, i64 $states)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %look], [%k1, %sleep]
  %k1 = add i64 %k, 1
  %wanted = load atomic i64, ptr %wanted.at monotonic, align 8
  %nobody = icmp eq i64 %wanted, 0
  %over = icmp sge i64 %k, %n
  %ends = or i1 %nobody, %over
  br i1 %ends, label %done, label %look
look:
  %variable = call i64 @word(ptr %states, i64 %k)
  %slot = call ptr @written_slot(ptr %table, i64 %k)
  %same = icmp eq i64 %variable, %wanted
  %written = icmp ne ptr %slot, null
  %due = and i1 %same, %written
  br i1 %due, label %sleep, label %next
sleep:
  %tries = phi i64 [0, %look], [%tries1, %sleep]
  %thread = call ptr @PyEval_SaveThread()
  %slept = call i32 @usleep(i32 250)
  call void @PyEval_RestoreThread(ptr %thread)
  %tries1 = add i64 %tries, 1
  %now = load atomic i64, ptr %wanted.at monotonic, align 8
  %still = icmp eq i64 %now, %variable
  %few = icmp slt i64 %tries1, 20
  %more = and i1 %still, %few
  br i1 %more, label %sleep, label %next
done:
  ret void
}

declare i32 @usleep(i32)

; The slot of variable %k if it is written, else null.
define internal ptr @written_slot(ptr %table, i64 %k) {
entry:
  %inputs = call i64 @word(ptr %table, i64 $n_inputs)
  %records = call ptr @pointer(ptr %table, i64 $records)
  %index = add i64 %inputs, %k
  %at = mul i64 %index, $record_words
  %at3 = add i64 %at, 3
  %written = call i64 @word(ptr %records, i64 %at3)
  %reads = icmp eq i64 %written, 0
  br i1 %reads, label %none, label %found
found:
  %states = call ptr @pointer(ptr %table, i64 $states)
  %variable = call ptr @pointer(ptr %states, i64 %k)
  %offset = call i64 @word(ptr %table, i64 $variable_offset)
  %slot = getelementptr inbounds i8, ptr %variable, i64 %offset
  ret ptr %slot
none:
  ret ptr null
}
