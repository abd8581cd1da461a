; Fourth part of the entry (see entry.ll): small outputs of earlier calls, used again once nobody else holds them.
;
; Making an array takes longer than a small kernel. A program remembers the arrays of its last two calls, since most callers
; drop a result only when they have the next one. An array is used again if this is the only reference to it, and it is as it
; was made: a user who keeps it, a view of it, or a weak reference keeps it as it is.

; The array in %slot with a new reference, or null.
define internal ptr @recycled(ptr %slot, ptr %descr, i64 %nd, ptr %dims) nounwind {
entry:
  %array = load ptr, ptr %slot
  %none = icmp eq ptr %array, null
  br i1 %none, label %no, label %look
look:
  %count = load i32, ptr %array                     ; the low half of ob_refcnt, see read_states
  %alone = icmp eq i32 %count, 1
  br i1 %alone, label %made, label %no
made:
  %base = call ptr @field(ptr %array, i64 $array_base)
  %own = icmp eq ptr %base, null
  %references = call ptr @field(ptr %array, i64 $array_weakreflist)
  %unseen = icmp eq ptr %references, null
  %descr.now = call ptr @field(ptr %array, i64 $array_descr)
  %same_dtype = icmp eq ptr %descr.now, %descr
  %flags_at = getelementptr inbounds i8, ptr %array, i64 $array_flags
  %flags.now = load i32, ptr %flags_at
  %flags = and i32 %flags.now, $flags_made
  %same_flags = icmp eq i32 %flags, $flags_made
  %nd_at = getelementptr inbounds i8, ptr %array, i64 $array_nd
  %nd32 = load i32, ptr %nd_at
  %nd.now = sext i32 %nd32 to i64
  %same_rank = icmp eq i64 %nd.now, %nd
  %ok1 = and i1 %own, %unseen
  %ok2 = and i1 %same_dtype, %same_flags
  %ok3 = and i1 %ok1, %ok2
  %ok4 = and i1 %ok3, %same_rank
  br i1 %ok4, label %shape, label %no
shape:
  %dims.now = call ptr @field(ptr %array, i64 $array_dims)
  br label %next
next:
  %k = phi i64 [0, %shape], [%k1, %axis]
  %more = icmp slt i64 %k, %nd
  br i1 %more, label %axis, label %yes
axis:
  %a = call i64 @word(ptr %dims.now, i64 %k)
  %b = call i64 @word(ptr %dims, i64 %k)
  %k1 = add i64 %k, 1
  %same = icmp eq i64 %a, %b
  br i1 %same, label %next, label %no
yes:
  call void @Py_IncRef(ptr %array)
  ret ptr %array
no:
  ret ptr null
}

define internal void @remember(ptr %slot, ptr %array) {
entry:
  %old = load ptr, ptr %slot
  call void @Py_IncRef(ptr %array)
  store ptr %array, ptr %slot
  %none = icmp eq ptr %old, null
  br i1 %none, label %done, label %drop
drop:
  call void @Py_DecRef(ptr %old)
  br label %done
done:
  ret void
}

; An array for an output of %bytes bytes; %slot remembers small ones. Null, with an exception set, without memory.
define internal ptr @output_array(ptr %slot, ptr %ndarray, ptr %descr, i64 %nd, ptr %dims, i64 %bytes) {
entry:
  %small = icmp ule i64 %bytes, $recycled_bytes
  br i1 %small, label %look, label %large
look:
  %old = call ptr @recycled(ptr %slot, ptr %descr, i64 %nd, ptr %dims)
  %none = icmp eq ptr %old, null
  br i1 %none, label %make, label %done
make:
  %fresh = call ptr @new_array(ptr %ndarray, ptr %descr, i64 %nd, ptr %dims, i64 %bytes)
  %failed = icmp eq ptr %fresh, null
  br i1 %failed, label %done, label %keep
keep:
  call void @remember(ptr %slot, ptr %fresh)
  br label %done
large:
  %plain = call ptr @new_array(ptr %ndarray, ptr %descr, i64 %nd, ptr %dims, i64 %bytes)
  br label %done
done:
  %array = phi ptr [%old, %look], [null, %make], [%fresh, %keep], [%plain, %large]
  ret ptr %array
}

; Once more without memory, if some of it is on the shelf.
define internal ptr @new_array(ptr %ndarray, ptr %descr, i64 %nd, ptr %dims, i64 %bytes) {
entry:
  %nd32 = trunc i64 %nd to i32
  br label %try
try:
  call void @Py_IncRef(ptr %descr)                  ; the next call takes it
  %array = call ptr @fresh_array(ptr %ndarray, ptr %descr, i32 %nd32, ptr %dims, i64 %bytes)
  %made = icmp ne ptr %array, null
  br i1 %made, label %done, label %search
search:
  %freed = call i64 @tapefuse_shelf(i64 1)
  %nothing = icmp eq i64 %freed, 0
  br i1 %nothing, label %done, label %again
again:
  call void @PyErr_Clear()
  br label %try
done:
  ret ptr %array
}

declare void @PyErr_Clear()
