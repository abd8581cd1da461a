; Third part of the entry (see entry.ll): memory of large outputs, kept when an array is freed and given to the next one, and
; scratch memory, of which each program keeps a block.
;
; A fresh page costs as much as reading it three times, so arrays of LARGE bytes or more get a NumPy memory handler of ours
; (NEP 49). In front of a block are what malloc gave (word -2), its capacity (-1), and when it was freed (-3), in a count of
; such events. The shelf holds the blocks freed last: as many as there are places, $shelf_bytes bytes in all, none that
; $shelf_patience others were freed after, and never so much that blocks in use and on the shelf take $shelf_slack bytes more
; than blocks in use ever took. It is emptied when there is no memory. NumPy calls handlers under the interpreter's lock;
; `@lock` is for interpreters that have none.

%allocator = type { ptr, ptr, ptr, ptr, ptr }             ; context, malloc, calloc, realloc, free
%handler = type { [127 x i8], i8, %allocator }            ; name, version
@handler = internal global %handler { [127 x i8] c"tapefuse$name_padding", i8 1, %allocator { ptr null, ptr @block_malloc, ptr @block_calloc, ptr @block_realloc, ptr @block_free } }
@handler.name = private constant [12 x i8] c"mem_handler\00"
@handler.capsule = internal global ptr null
@shelf = internal global [$shelf_places x ptr] zeroinitializer  ; the longest kept one first
@shelf.bytes = internal global i64 0
@shelf.time = internal global i64 0
@used = internal global i64 0                             ; bytes of blocks in use
@used.most = internal global i64 0
@lock = internal global i32 0

declare ptr @PyCapsule_New(ptr, ptr, ptr)
declare ptr @PyDataMem_SetHandler(ptr)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memmove.p0.p0.i64(ptr, ptr, i64, i1)

define internal void @enter_shelf() nounwind {
entry:
  br label %try
try:
  %was = atomicrmw xchg ptr @lock, i32 1 acquire
  %free = icmp eq i32 %was, 0
  br i1 %free, label %done, label %try
done:
  ret void
}

define internal void @leave_shelf() nounwind {
  store atomic i32 0, ptr @lock release, align 4
  ret void
}

; Take block number %k off the shelf; those behind it move up.
define internal ptr @unshelve(i64 %k) nounwind {
  %place = getelementptr ptr, ptr @shelf, i64 %k
  %block = load ptr, ptr %place
  %after = getelementptr ptr, ptr %place, i64 1
  %left = sub i64 $shelf_last, %k
  %bytes = shl i64 %left, 3
  call void @llvm.memmove.p0.p0.i64(ptr %place, ptr %after, i64 %bytes, i1 false)
  store ptr null, ptr getelementptr (ptr, ptr @shelf, i64 $shelf_last)
  %capacity = call i64 @word(ptr %block, i64 -1)
  %all = load i64, ptr @shelf.bytes
  %rest = sub i64 %all, %capacity
  store i64 %rest, ptr @shelf.bytes
  ret ptr %block
}

; A kept block of at least %bytes and at most a quarter more, or null.
define internal ptr @find_block(i64 %bytes) nounwind {
entry:
  %quarter = lshr i64 %bytes, 2
  %most = add i64 %bytes, %quarter
  br label %look
look:
  %k = phi i64 [$shelf_last, %entry], [%k1, %next]
  %place = getelementptr ptr, ptr @shelf, i64 %k
  %block = load ptr, ptr %place
  %none = icmp eq ptr %block, null
  br i1 %none, label %next, label %measure
measure:
  %capacity = call i64 @word(ptr %block, i64 -1)
  %enough = icmp uge i64 %capacity, %bytes
  %tight = icmp ule i64 %capacity, %most
  %good = and i1 %enough, %tight
  br i1 %good, label %found, label %next
next:
  %k1 = sub i64 %k, 1
  %more = icmp sge i64 %k1, 0
  br i1 %more, label %look, label %fail
found:
  %taken = call ptr @unshelve(i64 %k)
  ret ptr %taken
fail:
  ret ptr null
}

; So many bytes more, or less, are in use.
define internal void @count_used(i64 %change) nounwind {
  %before = load i64, ptr @used
  %now = add i64 %before, %change
  store i64 %now, ptr @used
  %most = load i64, ptr @used.most
  %record = call i64 @llvm.umax.i64(i64 %most, i64 %now)
  store i64 %record, ptr @used.most
  ret void
}

; Before a new block is made: free those on the shelf that do not fit beside it.
define internal void @make_room() nounwind {
entry:
  br label %look
look:
  %kept = load i64, ptr @shelf.bytes
  %none = icmp eq i64 %kept, 0
  br i1 %none, label %done, label %compare
compare:
  %used = load i64, ptr @used
  %all = add i64 %used, %kept
  %record = load i64, ptr @used.most
  %most = add i64 %record, $shelf_slack
  %fits = icmp ule i64 %all, %most
  br i1 %fits, label %done, label %evict
evict:
  call void @drop_oldest()
  br label %look
done:
  ret void
}

define internal void @drop_oldest() nounwind {
  %oldest = call ptr @unshelve(i64 0)
  call void @free_block(ptr %oldest)
  ret void
}

; Bytes on the shelf, which is emptied if %drop.
define i64 @tapefuse_shelf(i64 %drop) nounwind {
entry:
  call void @enter_shelf()
  %bytes = load i64, ptr @shelf.bytes
  %frees = icmp ne i64 %drop, 0
  br i1 %frees, label %look, label %done
look:
  %first = load ptr, ptr @shelf
  %empty = icmp eq ptr %first, null
  br i1 %empty, label %done, label %free
free:
  call void @drop_oldest()
  br label %look
done:
  call void @leave_shelf()
  ret i64 %bytes
}

define internal ptr @block_malloc(ptr %context, i64 %bytes) nounwind {
entry:
  call void @enter_shelf()
  %kept = call ptr @find_block(i64 %bytes)
  %none = icmp eq ptr %kept, null
  br i1 %none, label %new, label %found
found:
  %capacity = call i64 @word(ptr %kept, i64 -1)
  call void @count_used(i64 %capacity)
  call void @leave_shelf()
  ret ptr %kept
new:
  call void @count_used(i64 %bytes)
  call void @make_room()
  call void @leave_shelf()
  %block = call ptr @new_block(i64 %bytes)
  %failed = icmp eq ptr %block, null
  br i1 %failed, label %forget, label %done
forget:
  call void @enter_shelf()
  %less = sub i64 0, %bytes
  call void @count_used(i64 %less)
  call void @leave_shelf()
  br label %done
done:
  ret ptr %block
}

; A block from the system, 64-byte aligned; null without memory.
define internal ptr @new_block(i64 %bytes) nounwind {
entry:
  %negative = icmp slt i64 %bytes, 0
  br i1 %negative, label %fail, label %try
try:
  %total = add i64 %bytes, 128
  %raw = call ptr @PyMem_RawMalloc(i64 %total)
  %empty = icmp eq ptr %raw, null
  br i1 %empty, label %search, label %align
search:
  %freed = call i64 @tapefuse_shelf(i64 1)
  %nothing = icmp eq i64 %freed, 0
  br i1 %nothing, label %fail, label %try
fail:
  ret ptr null
align:
  %address = ptrtoint ptr %raw to i64
  %beyond = add i64 %address, 127
  %aligned = and i64 %beyond, -64
  %skip = sub i64 %aligned, %address
  %block = getelementptr i8, ptr %raw, i64 %skip
  call void @put(ptr %block, i64 -2, ptr %raw)
  %capacity_at = getelementptr i64, ptr %block, i64 -1
  store i64 %bytes, ptr %capacity_at
  ret ptr %block
}

define internal ptr @block_calloc(ptr %context, i64 %count, i64 %size) nounwind {
entry:
  %product = call { i64, i1 } @llvm.umul.with.overflow.i64(i64 %count, i64 %size)
  %bytes = extractvalue { i64, i1 } %product, 0
  %too_large = extractvalue { i64, i1 } %product, 1
  br i1 %too_large, label %fail, label %make
make:
  %block = call ptr @block_malloc(ptr %context, i64 %bytes)
  %empty = icmp eq ptr %block, null
  br i1 %empty, label %fail, label %clear
clear:
  call void @llvm.memset.p0.i64(ptr %block, i8 0, i64 %bytes, i1 false)
  ret ptr %block
fail:
  ret ptr null
}

define internal ptr @block_realloc(ptr %context, ptr %old, i64 %bytes) nounwind {
entry:
  %fresh = icmp eq ptr %old, null
  br i1 %fresh, label %make, label %measure
measure:
  %had = call i64 @word(ptr %old, i64 -1)
  br label %make
make:
  %capacity = phi i64 [0, %entry], [%had, %measure]
  %block = call ptr @block_malloc(ptr %context, i64 %bytes)
  %empty = icmp eq ptr %block, null
  br i1 %empty, label %done, label %copy
copy:
  %shrinks = icmp ult i64 %bytes, %capacity
  %same = select i1 %shrinks, i64 %bytes, i64 %capacity
  call void @llvm.memcpy.p0.p0.i64(ptr %block, ptr %old, i64 %same, i1 false)
  call void @block_free(ptr %context, ptr %old, i64 %capacity)
  br label %done
done:
  ret ptr %block
}

define internal void @block_free(ptr %context, ptr %block, i64 %bytes) nounwind {
entry:
  %nothing = icmp eq ptr %block, null
  br i1 %nothing, label %done, label %measure
measure:
  %capacity = call i64 @word(ptr %block, i64 -1)
  call void @enter_shelf()
  %less = sub i64 0, %capacity
  call void @count_used(i64 %less)
  %too_large = icmp ugt i64 %capacity, $shelf_bytes
  br i1 %too_large, label %drop, label %room
drop:
  call void @leave_shelf()
  call void @free_block(ptr %block)
  br label %done
room:
  %all = load i64, ptr @shelf.bytes
  %sum = add i64 %all, %capacity
  %last = load ptr, ptr getelementptr (ptr, ptr @shelf, i64 $shelf_last)
  %has_place = icmp eq ptr %last, null
  %fits = icmp ule i64 %sum, $shelf_bytes
  %good = and i1 %has_place, %fits
  br i1 %good, label %search, label %evict
evict:
  call void @drop_oldest()
  br label %room
search:
  %k = phi i64 [0, %room], [%k1, %taken]
  %place = getelementptr ptr, ptr @shelf, i64 %k
  %there = load ptr, ptr %place
  %free = icmp eq ptr %there, null
  br i1 %free, label %keep, label %taken
taken:
  %k1 = add i64 %k, 1
  br label %search
keep:
  store ptr %block, ptr %place
  store i64 %sum, ptr @shelf.bytes
  %time = load i64, ptr @shelf.time
  %time1 = add i64 %time, 1
  store i64 %time1, ptr @shelf.time
  %freed.at = getelementptr i64, ptr %block, i64 -3
  store i64 %time1, ptr %freed.at
  %last_used = sub i64 %time1, $shelf_patience
  br label %tidy
tidy:                                               ; there is one on the shelf, that of now
  %eldest = load ptr, ptr @shelf
  %freed = call i64 @word(ptr %eldest, i64 -3)
  %young = icmp sge i64 %freed, %last_used
  br i1 %young, label %leave, label %forget
forget:
  call void @drop_oldest()
  br label %tidy
leave:
  call void @leave_shelf()
  br label %done
done:
  ret void
}

define internal void @free_block(ptr %block) nounwind {
  %raw = call ptr @pointer(ptr %block, i64 -2)
  call void @PyMem_RawFree(ptr %raw)
  ret void
}

; For kernels: memory of a size that is known inside of them only, 64-byte aligned, or null; large blocks are kept as well.
define ptr @tapefuse_take(i64 %bytes) nounwind {
entry:
  %large = icmp sge i64 %bytes, $large
  br i1 %large, label %shelf, label %new
shelf:
  %kept = call ptr @block_malloc(ptr null, i64 %bytes)
  ret ptr %kept
new:
  %block = call ptr @new_block(i64 %bytes)
  ret ptr %block
}

define void @tapefuse_give(ptr %block) nounwind {
entry:
  %nothing = icmp eq ptr %block, null
  br i1 %nothing, label %done, label %measure
measure:
  %capacity = call i64 @word(ptr %block, i64 -1)
  %large = icmp sge i64 %capacity, $large
  br i1 %large, label %shelf, label %free
shelf:
  call void @block_free(ptr null, ptr %block, i64 %capacity)
  ret void
free:
  call void @free_block(ptr %block)
  br label %done
done:
  ret void
}

; 64-byte aligned scratch memory: the block kept in %slot when it is large enough, or a new one; null without memory.
define internal ptr @take_arena(ptr %slot, i64 %bytes) nounwind {
  %kept = atomicrmw xchg ptr %slot, ptr null acq_rel
  %none = icmp eq ptr %kept, null
  br i1 %none, label %new, label %measure
measure:
  %capacity = call i64 @word(ptr %kept, i64 -1)
  %enough = icmp sge i64 %capacity, %bytes
  br i1 %enough, label %keep, label %drop
keep:
  ret ptr %kept
drop:
  call void @free_block(ptr %kept)
  br label %new
new:
  %block = call ptr @new_block(i64 %bytes)
  ret ptr %block
}

define internal void @give_arena(ptr %slot, ptr %block) nounwind {
  %other = atomicrmw xchg ptr %slot, ptr %block acq_rel
  %none = icmp eq ptr %other, null
  br i1 %none, label %done, label %free
free:
  call void @free_block(ptr %other)
  br label %done
done:
  ret void
}

; Bytes of the block kept in %slot, which is freed if %drop.
define i64 @tapefuse_arena(ptr %slot, i64 %drop) nounwind {
entry:
  %kept = atomicrmw xchg ptr %slot, ptr null acq_rel
  %none = icmp eq ptr %kept, null
  br i1 %none, label %done, label %measure
measure:
  %capacity = call i64 @word(ptr %kept, i64 -1)
  %frees = icmp ne i64 %drop, 0
  br i1 %frees, label %free, label %keep
free:
  call void @free_block(ptr %kept)
  br label %done
keep:
  call void @give_arena(ptr %slot, ptr %kept)
  br label %done
done:
  %bytes = phi i64 [0, %entry], [%capacity, %free], [%capacity, %keep]
  ret i64 %bytes
}

declare i64 @llvm.umax.i64(i64, i64)
declare { i64, i1 } @llvm.umul.with.overflow.i64(i64, i64)

; A fresh array of %bytes bytes; large ones with our handler. Null, with an exception set, without memory.
define internal ptr @fresh_array(ptr %ndarray, ptr %descr, i32 %nd, ptr %dims, i64 %bytes) {
entry:
  %large = icmp uge i64 %bytes, $large
  br i1 %large, label %ours, label %plain
plain:
  %small = call ptr @PyArray_NewFromDescr(ptr %ndarray, ptr %descr, i32 %nd, ptr %dims, ptr null, ptr null, i32 0, ptr null)
  ret ptr %small
ours:
  %made = load ptr, ptr @handler.capsule
  %first = icmp eq ptr %made, null
  br i1 %first, label %capsule, label %set
capsule:
  %new = call ptr @PyCapsule_New(ptr @handler, ptr @handler.name, ptr null)
  %failed = icmp eq ptr %new, null
  br i1 %failed, label %fail, label %remember
remember:
  store ptr %new, ptr @handler.capsule
  br label %set
set:
  %mine = phi ptr [%made, %ours], [%new, %remember]
  %theirs = call ptr @PyDataMem_SetHandler(ptr %mine)
  %refused = icmp eq ptr %theirs, null
  br i1 %refused, label %fail, label %make
make:
  %array = call ptr @PyArray_NewFromDescr(ptr %ndarray, ptr %descr, i32 %nd, ptr %dims, ptr null, ptr null, i32 0, ptr null)
  %again = call ptr @PyDataMem_SetHandler(ptr %theirs)
  call void @Py_DecRef(ptr %theirs)
  call void @Py_DecRef(ptr %again)
  ret ptr %array
fail:
  call void @Py_DecRef(ptr %descr)
  ret ptr null
}
