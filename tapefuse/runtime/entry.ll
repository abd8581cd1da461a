; The way from Python into a program: one METH_FASTCALL function for all of them, driven by a table of 64-bit words that
; entry.py writes. Joined behind entry_arrays.ll. Nothing that can run Python code is called between the checks of the
; states and the end of the program.

; Before the interpreter is let go: hold arrays that are read, take arrays that are written out of their variables,
; so that nobody sees half-written values: the slot is empty until @give_states.
define internal void @take_states(ptr %table, ptr %arrays) {
entry:
  %inputs = call i64 @word(ptr %table, i64 $n_inputs)
  %n = call i64 @word(ptr %table, i64 $n_states)
  %records = call ptr @pointer(ptr %table, i64 $records)
  %states = call ptr @pointer(ptr %table, i64 $states)
  %offset = call i64 @word(ptr %table, i64 $variable_offset)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %done]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %end
look:
  %index = add i64 %inputs, %k
  %at = mul i64 %index, $record_words
  %at3 = add i64 %at, 3
  %written = call i64 @word(ptr %records, i64 %at3)
  %reads = icmp eq i64 %written, 0
  br i1 %reads, label %hold, label %take
hold:
  %array = call ptr @pointer(ptr %arrays, i64 %index)
  call void @Py_IncRef(ptr %array)
  br label %done
take:
  %variable = call ptr @pointer(ptr %states, i64 %k)
  %slot = getelementptr inbounds i8, ptr %variable, i64 %offset
  store ptr null, ptr %slot
  br label %done
done:
  %k1 = add i64 %k, 1
  br label %next
end:
  ret void
}

; Afterwards. A variable that was given another array in the meantime keeps that one.
; Slots are filled before any reference is dropped: dropping one may run Python code.
define internal void @give_states(ptr %table, ptr %arrays) {
entry:
  %inputs = call i64 @word(ptr %table, i64 $n_inputs)
  %n = call i64 @word(ptr %table, i64 $n_states)
  %records = call ptr @pointer(ptr %table, i64 $records)
  %states = call ptr @pointer(ptr %table, i64 $states)
  %offset = call i64 @word(ptr %table, i64 $variable_offset)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %done]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %drop
look:
  %index = add i64 %inputs, %k
  %at = mul i64 %index, $record_words
  %at3 = add i64 %at, 3
  %written = call i64 @word(ptr %records, i64 %at3)
  %reads = icmp eq i64 %written, 0
  br i1 %reads, label %done, label %give
give:
  %variable = call ptr @pointer(ptr %states, i64 %k)
  %slot = getelementptr inbounds i8, ptr %variable, i64 %offset
  %there = load ptr, ptr %slot
  %free = icmp eq ptr %there, null
  br i1 %free, label %fill, label %done
fill:
  %array = call ptr @pointer(ptr %arrays, i64 %index)
  store ptr %array, ptr %slot
  call void @put(ptr %arrays, i64 %index, ptr null)
  br label %done
done:
  %k1 = add i64 %k, 1
  br label %next
drop:
  %d = phi i64 [0, %next], [%d1, %dropped]
  %left = icmp slt i64 %d, %n
  br i1 %left, label %look_again, label %end
look_again:
  %held_at = add i64 %inputs, %d
  %held = call ptr @pointer(ptr %arrays, i64 %held_at)
  %moved = icmp eq ptr %held, null
  br i1 %moved, label %dropped, label %decref
decref:
  call void @Py_DecRef(ptr %held)
  br label %dropped
dropped:
  %d1 = add i64 %d, 1
  br label %drop
end:
  ret void
}

; Run the program; long ones without the interpreter's lock, unless a fork waits for such calls to end. Status -1: stopped
; before any variable was written. Numba's thread mask of this thread is left as it was.
define internal i64 @run(ptr %table, ptr %arrays, ptr %pointers, ptr %values, i1 %may_stop) {
entry:
  %program = call ptr @pointer(ptr %table, i64 $program)
  %get_mask = call ptr @pointer(ptr %table, i64 $get_mask)
  %set_mask = call ptr @pointer(ptr %table, i64 $set_mask)
  %masked = icmp ne ptr %get_mask, null
  br i1 %masked, label %remember, label %length
remember:
  %mask0 = call i32 %get_mask()
  br label %length
length:
  %mask = phi i32 [0, %entry], [%mask0, %remember]
  %work_static = call i64 @word(ptr %table, i64 $work)
  %work_index = call i64 @word(ptr %table, i64 $work_index)
  %symbolic = icmp sge i64 %work_index, 0
  br i1 %symbolic, label %look, label %decide
look:
  %work_value = call i64 @word(ptr %values, i64 %work_index)
  br label %decide
decide:
  %work = phi i64 [%work_static, %length], [%work_value, %look]
  %limit = call i64 @word(ptr %table, i64 $gil_limit)
  %long = icmp sgt i64 %work, %limit
  br i1 %long, label %forks, label %together
forks:
  %away = call ptr @pointer(ptr %table, i64 $away)
  %pending.at = getelementptr i64, ptr %away, i64 1
  %pending = load i64, ptr %pending.at
  %calm = icmp eq i64 %pending, 0
  br i1 %calm, label %alone, label %together
together:
  %status0 = call i64 %program(ptr %pointers, ptr %values)
  br label %finish
alone:
  call void @take_states(ptr %table, ptr %arrays)
  call void @leave(ptr %table, i64 1)
  %is_watched = call i1 @is_watched(ptr %table, i64 %work)
  %watched = and i1 %is_watched, %may_stop
  %thread = call ptr @PyEval_SaveThread()
  br i1 %watched, label %watch, label %go
watch:
  call void @start_watch(ptr %thread, ptr %table, ptr %arrays)
  br label %go
go:
  %status1 = call i64 %program(ptr %pointers, ptr %values)
  br i1 %watched, label %unwatch, label %back
unwatch:
  call void @end_watch()
  br label %back
back:
  call void @PyEval_RestoreThread(ptr %thread)
  call void @leave(ptr %table, i64 -1)
  call void @give_states(ptr %table, ptr %arrays)
  call void @let_in(ptr %table)
  br label %finish
finish:
  %status = phi i64 [%status0, %together], [%status1, %back]
  br i1 %masked, label %restore, label %end
restore:
  call void %set_mask(i32 %mask)
  br label %end
end:
  ret i64 %status
}

; The result: one object, or a tuple of them. Takes the references in %outputs.
define internal ptr @wrap(ptr %table, ptr %outputs) {
entry:
  %n = call i64 @word(ptr %table, i64 $n_outputs)
  %kinds = call ptr @pointer(ptr %table, i64 $kinds)
  %tupled = call i64 @word(ptr %table, i64 $tupled)
  %alone = icmp eq i64 %tupled, 0
  br i1 %alone, label %next, label %make
make:
  %tuple0 = call ptr @PyTuple_New(i64 %n)
  %failed = icmp eq ptr %tuple0, null
  br i1 %failed, label %drop, label %next
next:
  %k = phi i64 [0, %entry], [0, %make], [%k1, %append]
  %tuple = phi ptr [null, %entry], [%tuple0, %make], [%tuple, %append]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %end
look:
  %array = call ptr @pointer(ptr %outputs, i64 %k)
  %kind = call i64 @word(ptr %kinds, i64 %k)
  %wrapped = icmp eq i64 %kind, 0
  br i1 %wrapped, label %tensor, label %plain
tensor:
  %t.tensor = call ptr @tensor_of(ptr %table, ptr %array)
  br label %made
plain:
  %t.plain = call ptr @plain_of(ptr %array, i64 %kind)
  br label %made
made:
  %t = phi ptr [%t.tensor, %tensor], [%t.plain, %plain]
  %none = icmp eq ptr %t, null
  br i1 %none, label %undo, label %fill
fill:
  br i1 %alone, label %single, label %append
single:
  ret ptr %t
append:
  %items = getelementptr inbounds i8, ptr %tuple, i64 $tuple_items
  call void @put(ptr %items, i64 %k, ptr %t)
  %k1 = add i64 %k, 1
  br label %next
end:
  ret ptr %tuple
undo:
  %no_tuple = icmp eq ptr %tuple, null
  br i1 %no_tuple, label %drop, label %drop_tuple
drop_tuple:
  call void @Py_DecRef(ptr %tuple)
  br label %drop
drop:
  %from = phi i64 [0, %make], [%k, %undo], [%k, %drop_tuple]
  call void @release(ptr %outputs, i64 %from, i64 %n)
  ret ptr null
}

define ptr @tapefuse_entry(ptr %self, ptr %args, i64 %nargs) {
entry:
  %table = call ptr @field(ptr %self, i64 $array_data)
  %n_inputs = call i64 @word(ptr %table, i64 $n_inputs)
  %count_ok = icmp eq i64 %nargs, %n_inputs
  br i1 %count_ok, label %notice, label %refuse
notice:                                             ; a parallel program after a fork warns once
  %notice_at = call ptr @pointer(ptr %table, i64 $notice)
  %serial = icmp eq ptr %notice_at, null
  br i1 %serial, label %space, label %asked
asked:
  %due = load i64, ptr %notice_at
  %quiet = icmp eq i64 %due, 0
  br i1 %quiet, label %space, label %warn
warn:
  %warning = call ptr @pointer(ptr %table, i64 $warning)
  %said = call ptr @PyObject_CallNoArgs(ptr %warning)
  %raised = icmp eq ptr %said, null
  br i1 %raised, label %error, label %warned
warned:
  call void @Py_DecRef(ptr %said)
  br label %space
space:
  %may_stop = phi i1 [true, %notice], [true, %asked], [true, %warned], [false, %stopped]
  %n_states = call i64 @word(ptr %table, i64 $n_states)
  %n_constants = call i64 @word(ptr %table, i64 $n_constants)
  %n_outputs = call i64 @word(ptr %table, i64 $n_outputs)
  %n_symbols = call i64 @word(ptr %table, i64 $n_symbols)
  %n_polys = call i64 @word(ptr %table, i64 $n_polys)
  %n_sizes = call i64 @word(ptr %table, i64 $n_sizes)
  %n_read = add i64 %n_inputs, %n_states
  %first_output = add i64 %n_read, %n_constants
  %last = add i64 %first_output, %n_outputs
  %n_pointers = add i64 %last, 1
  %n_values = add i64 %n_symbols, %n_polys
  %arrays = alloca ptr, i64 %n_read
  %pointers = alloca ptr, i64 %n_pointers
  %outputs = alloca ptr, i64 %n_outputs
  %values = alloca i64, i64 %n_values
  %inputs_ok = call i1 @read_inputs(ptr %table, ptr %args, ptr %arrays, ptr %pointers, ptr %values)
  br i1 %inputs_ok, label %states, label %refuse
states:
  %states_ok = call i1 @read_states(ptr %table, ptr %arrays, ptr %pointers, ptr %values)
  br i1 %states_ok, label %sizes, label %refuse
sizes:
  %template = call ptr @pointer(ptr %table, i64 $sizes)
  %fixed = icmp eq i64 %n_values, 0
  br i1 %fixed, label %allocate, label %symbolic
symbolic:
  %polys = call ptr @pointer(ptr %table, i64 $polys)
  %finite = call i1 @evaluate(ptr %polys, i64 %n_polys, ptr %values, i64 %n_symbols)
  br i1 %finite, label %compare, label %too_large
compare:
  %polys_ok = call i1 @check_polynomials(ptr %table, ptr %arrays, ptr %values)
  br i1 %polys_ok, label %copy, label %refuse
copy:
  call void @give_room(ptr %table, ptr %arrays, ptr %pointers)
  %own_sizes = alloca i64, i64 %n_sizes
  %size_bytes = shl i64 %n_sizes, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %own_sizes, ptr %template, i64 %size_bytes, i1 false)
  %sizes_ok = call i1 @fill_sizes(ptr %table, ptr %own_sizes, ptr %values)
  br i1 %sizes_ok, label %allocate, label %refuse
allocate:
  %shape = phi ptr [%template, %sizes], [%own_sizes, %copy]
  %constants = call ptr @pointer(ptr %table, i64 $constants)
  %constants_to = getelementptr inbounds ptr, ptr %pointers, i64 %n_read
  %constant_bytes = shl i64 %n_constants, 3
  call void @llvm.memcpy.p0.p0.i64(ptr %constants_to, ptr %constants, i64 %constant_bytes, i1 false)
  %outputs_to = getelementptr inbounds ptr, ptr %pointers, i64 %first_output
  %outputs_ok = call i1 @make_outputs(ptr %table, ptr %shape, ptr %outputs, ptr %outputs_to)
  br i1 %outputs_ok, label %scratch, label %error
scratch:                                            ; small arenas on the stack
  %arena_static = call i64 @word(ptr %table, i64 $arena)
  %arena_index = call i64 @word(ptr %table, i64 $arena_index)
  %arena_slot = getelementptr inbounds i64, ptr %table, i64 $arena_slot
  %arena_symbolic = icmp sge i64 %arena_index, 0
  br i1 %arena_symbolic, label %arena_value, label %arena_size
arena_value:
  %arena_computed = call i64 @word(ptr %values, i64 %arena_index)
  br label %arena_size
arena_size:
  %bytes = phi i64 [%arena_static, %scratch], [%arena_computed, %arena_value]
  %tiny = icmp ule i64 %bytes, $stack_arena
  br i1 %tiny, label %on_stack, label %on_heap
on_stack:
  %stack = alloca i8, i64 %bytes, align 64
  br label %call
on_heap:
  %heap = call ptr @take_arena(ptr %arena_slot, i64 %bytes)
  %no_memory = icmp eq ptr %heap, null
  br i1 %no_memory, label %fail_memory, label %call
call:
  %arena = phi ptr [%stack, %on_stack], [%heap, %on_heap]
  call void @put(ptr %pointers, i64 %last, ptr %arena)
  %status = call i64 @run(ptr %table, ptr %arrays, ptr %pointers, ptr %values, i1 %may_stop)
  br i1 %tiny, label %judge, label %give_back
give_back:
  call void @give_arena(ptr %arena_slot, ptr %arena)
  br label %judge
judge:
  %fine = icmp eq i64 %status, 0
  br i1 %fine, label %result, label %failed
result:
  %tensors = call ptr @wrap(ptr %table, ptr %outputs)
  ret ptr %tensors
failed:
  call void @release(ptr %outputs, i64 0, i64 %n_outputs)
  switch i64 %status, label %check [ i64 -1, label %stopped
                                     i64 -2, label %too_large ]
stopped:                                            ; by an exception, or to begin again with what variables hold now
  %exception = call ptr @PyErr_Occurred()
  %again = icmp eq ptr %exception, null
  br i1 %again, label %space, label %error
check:                                              ; the handler raises; whatever it returns is the result
  %number = call ptr @PyLong_FromLongLong(i64 %status)
  %no_number = icmp eq ptr %number, null
  br i1 %no_number, label %error, label %tell
tell:
  %handler = call ptr @pointer(ptr %table, i64 $handler)
  %answer = call ptr @PyObject_CallOneArg(ptr %handler, ptr %number)
  call void @Py_DecRef(ptr %number)
  ret ptr %answer
fail_memory:
  call void @release(ptr %outputs, i64 0, i64 %n_outputs)
  br label %too_large
too_large:
  %ignored = call ptr @PyErr_NoMemory()
  ret ptr null
refuse:
  call void @Py_IncRef(ptr @_Py_NotImplementedStruct)
  ret ptr @_Py_NotImplementedStruct
error:
  ret ptr null
}
