; First part of the entry (see entry.ll): arrays against their records, sizes of outputs, fresh arrays.
; entry.py fills in the names behind dollar signs: indices of table words, offsets in NumPy's array record.

declare void @Py_IncRef(ptr)
declare void @Py_DecRef(ptr)
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyType_GenericAlloc(ptr, i64)
declare ptr @PyTuple_New(i64)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyObject_CallOneArg(ptr, ptr)
declare ptr @PyObject_CallNoArgs(ptr)
declare ptr @PyErr_NoMemory()
declare ptr @PyMem_RawMalloc(i64)
declare void @PyMem_RawFree(ptr)
declare ptr @PyArray_NewFromDescr(ptr, ptr, i32, ptr, ptr, ptr, i32, ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
@_Py_NotImplementedStruct = external global i8

define internal i64 @word(ptr %base, i64 %k) alwaysinline nounwind {
  %p = getelementptr inbounds i64, ptr %base, i64 %k
  %v = load i64, ptr %p
  ret i64 %v
}

define internal ptr @pointer(ptr %base, i64 %k) alwaysinline nounwind {
  %p = getelementptr inbounds ptr, ptr %base, i64 %k
  %v = load ptr, ptr %p
  ret ptr %v
}

define internal ptr @field(ptr %object, i64 %offset) alwaysinline nounwind {
  %p = getelementptr inbounds i8, ptr %object, i64 %offset
  %v = load ptr, ptr %p
  ret ptr %v
}

define internal void @put(ptr %base, i64 %k, ptr %v) alwaysinline nounwind {
  %p = getelementptr inbounds ptr, ptr %base, i64 %k
  store ptr %v, ptr %p
  ret void
}

; Does the array fit its record (descr, rank, axes, written)? Binds and compares plain symbols in %values.
; An axis is (kind, x): 0 the size x; 1 binds symbol x; 2 equals symbol x; 3 is a polynomial, compared later.
define internal i1 @fits(ptr %array, ptr %record, ptr %values) nounwind {
  %descr = call ptr @field(ptr %array, i64 $array_descr)
  %want_descr = call ptr @pointer(ptr %record, i64 0)
  %descr_ok = icmp eq ptr %descr, %want_descr
  %nd_at = getelementptr inbounds i8, ptr %array, i64 $array_nd
  %nd32 = load i32, ptr %nd_at
  %nd = sext i32 %nd32 to i64
  %want_nd = call i64 @word(ptr %record, i64 1)
  %nd_ok = icmp eq i64 %nd, %want_nd
  %flags_at = getelementptr inbounds i8, ptr %array, i64 $array_flags
  %flags = load i32, ptr %flags_at
  %flags_in = and i32 %flags, $flags_layout
  %flags_ok = icmp eq i32 %flags_in, $flags_layout
  %ok1 = and i1 %descr_ok, %nd_ok
  %ok2 = and i1 %ok1, %flags_ok
  br i1 %ok2, label %start, label %no
start:
  %dims = call ptr @field(ptr %array, i64 $array_dims)
  %axes = call ptr @pointer(ptr %record, i64 2)
  br label %axis
axis:
  %k = phi i64 [0, %start], [%k1, %good]
  %more = icmp slt i64 %k, %nd
  br i1 %more, label %look, label %yes
look:
  %d = call i64 @word(ptr %dims, i64 %k)
  %at = shl i64 %k, 1
  %at1 = add i64 %at, 1
  %kind = call i64 @word(ptr %axes, i64 %at)
  %x = call i64 @word(ptr %axes, i64 %at1)
  switch i64 %kind, label %good [ i64 0, label %fixed  i64 1, label %bind  i64 2, label %same ]
fixed:
  %fixed_ok = icmp eq i64 %d, %x
  br i1 %fixed_ok, label %good, label %no
bind:
  %cell = getelementptr inbounds i64, ptr %values, i64 %x
  store i64 %d, ptr %cell
  br label %good
same:
  %bound = call i64 @word(ptr %values, i64 %x)
  %same_ok = icmp eq i64 %d, %bound
  br i1 %same_ok, label %good, label %no
good:
  %k1 = add i64 %k, 1
  br label %axis
yes:
  ret i1 true
no:
  ret i1 false
}

declare { i64, i1 } @llvm.smul.with.overflow.i64(i64, i64)
declare { i64, i1 } @llvm.sadd.with.overflow.i64(i64, i64)

; Values of %n polynomials, stored from values[first] on. Stream: terms, then per term coefficient, factors, symbols.
; False when one exceeds 63 bits: no memory holds that.
define internal i1 @evaluate(ptr %stream, i64 %n, ptr %values, i64 %first) nounwind {
entry:
  br label %poly
poly:
  %p = phi i64 [0, %entry], [%p1, %store]
  %pos = phi i64 [0, %entry], [%pos_terms, %store]
  %more_polys = icmp slt i64 %p, %n
  br i1 %more_polys, label %begin, label %done
begin:
  %terms = call i64 @word(ptr %stream, i64 %pos)
  %pos0 = add i64 %pos, 1
  br label %term
term:
  %t = phi i64 [0, %begin], [%t1, %add]
  %sum = phi i64 [0, %begin], [%sum1, %add]
  %pos_terms = phi i64 [%pos0, %begin], [%pos_factors, %add]
  %more_terms = icmp slt i64 %t, %terms
  br i1 %more_terms, label %coefficient, label %store
coefficient:
  %c = call i64 @word(ptr %stream, i64 %pos_terms)
  %pos1 = add i64 %pos_terms, 1
  %factors = call i64 @word(ptr %stream, i64 %pos1)
  %pos2 = add i64 %pos1, 1
  br label %factor
factor:
  %f = phi i64 [0, %coefficient], [%f1, %multiply]
  %product = phi i64 [%c, %coefficient], [%product1, %multiply]
  %pos_factors = phi i64 [%pos2, %coefficient], [%pos3, %multiply]
  %more_factors = icmp slt i64 %f, %factors
  br i1 %more_factors, label %multiply, label %add
multiply:
  %symbol = call i64 @word(ptr %stream, i64 %pos_factors)
  %value = call i64 @word(ptr %values, i64 %symbol)
  %multiplied = call { i64, i1 } @llvm.smul.with.overflow.i64(i64 %product, i64 %value)
  %product1 = extractvalue { i64, i1 } %multiplied, 0
  %too_large = extractvalue { i64, i1 } %multiplied, 1
  %pos3 = add i64 %pos_factors, 1
  %f1 = add i64 %f, 1
  br i1 %too_large, label %overflow, label %factor
add:
  %added = call { i64, i1 } @llvm.sadd.with.overflow.i64(i64 %sum, i64 %product)
  %sum1 = extractvalue { i64, i1 } %added, 0
  %too_much = extractvalue { i64, i1 } %added, 1
  %t1 = add i64 %t, 1
  br i1 %too_much, label %overflow, label %term
store:
  %index = add i64 %first, %p
  %cell = getelementptr inbounds i64, ptr %values, i64 %index
  store i64 %sum, ptr %cell
  %p1 = add i64 %p, 1
  br label %poly
done:
  ret i1 true
overflow:
  ret i1 false
}

; Give up the references objects[from], ..., objects[to - 1].
define internal void @release(ptr %objects, i64 %from, i64 %to) {
entry:
  br label %next
next:
  %k = phi i64 [%from, %entry], [%k1, %drop]
  %more = icmp slt i64 %k, %to
  br i1 %more, label %drop, label %done
drop:
  %o = call ptr @pointer(ptr %objects, i64 %k)
  call void @Py_DecRef(ptr %o)
  %k1 = add i64 %k, 1
  br label %next
done:
  ret void
}

; Inputs: each an ndarray, or a Tensor holding one. False when one does not fit.
define internal i1 @read_inputs(ptr %table, ptr %args, ptr %arrays, ptr %pointers, ptr %values) nounwind {
entry:
  %n = call i64 @word(ptr %table, i64 $n_inputs)
  %records = call ptr @pointer(ptr %table, i64 $records)
  %ndarray = call ptr @pointer(ptr %table, i64 $ndarray)
  %tensor = call ptr @pointer(ptr %table, i64 $tensor)
  %offset = call i64 @word(ptr %table, i64 $tensor_offset)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %accept]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %yes
look:
  %arg = call ptr @pointer(ptr %args, i64 %k)
  %type = call ptr @field(ptr %arg, i64 $object_type)
  %is_tensor = icmp eq ptr %type, %tensor
  br i1 %is_tensor, label %unwrap, label %found
unwrap:
  %inner = call ptr @field(ptr %arg, i64 %offset)
  %empty = icmp eq ptr %inner, null
  br i1 %empty, label %no, label %inside
inside:
  %inner_type = call ptr @field(ptr %inner, i64 $object_type)
  br label %found
found:
  %array = phi ptr [%arg, %look], [%inner, %inside]
  %array_type = phi ptr [%type, %look], [%inner_type, %inside]
  %is_array = icmp eq ptr %array_type, %ndarray
  br i1 %is_array, label %check, label %no
check:
  %at = mul i64 %k, $record_words
  %record = getelementptr inbounds i64, ptr %records, i64 %at
  %ok = call i1 @fits(ptr %array, ptr %record, ptr %values)
  br i1 %ok, label %accept, label %no
accept:
  %data = call ptr @field(ptr %array, i64 $array_data)
  call void @put(ptr %arrays, i64 %k, ptr %array)
  call void @put(ptr %pointers, i64 %k, ptr %data)
  %k1 = add i64 %k, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; States: the arrays in the variables' slots. A written one must be ours alone: one reference, its own memory, writeable.
define internal i1 @read_states(ptr %table, ptr %arrays, ptr %pointers, ptr %values) nounwind {
entry:
  %inputs = call i64 @word(ptr %table, i64 $n_inputs)
  %n = call i64 @word(ptr %table, i64 $n_states)
  %records = call ptr @pointer(ptr %table, i64 $records)
  %states = call ptr @pointer(ptr %table, i64 $states)
  %ndarray = call ptr @pointer(ptr %table, i64 $ndarray)
  %offset = call i64 @word(ptr %table, i64 $variable_offset)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %accept]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %yes
look:
  %variable = call ptr @pointer(ptr %states, i64 %k)
  %array = call ptr @field(ptr %variable, i64 %offset)
  %empty = icmp eq ptr %array, null
  br i1 %empty, label %no, label %typed
typed:
  %type = call ptr @field(ptr %array, i64 $object_type)
  %is_array = icmp eq ptr %type, %ndarray
  br i1 %is_array, label %check, label %no
check:
  %index = add i64 %inputs, %k
  %at = mul i64 %index, $record_words
  %record = getelementptr inbounds i64, ptr %records, i64 %at
  %ok = call i1 @fits(ptr %array, ptr %record, ptr %values)
  br i1 %ok, label %mode, label %no
mode:
  %written = call i64 @word(ptr %record, i64 3)
  %reads = icmp eq i64 %written, 0
  br i1 %reads, label %accept, label %alone
alone:
  %count = load i32, ptr %array                     ; the low half of ob_refcnt: the count in every CPython from 3.11 on
  %count_ok = icmp eq i32 %count, 1
  %base = call ptr @field(ptr %array, i64 $array_base)
  %base_ok = icmp eq ptr %base, null
  %flags_at = getelementptr inbounds i8, ptr %array, i64 $array_flags
  %flags = load i32, ptr %flags_at
  %flag = and i32 %flags, $flags_writeable
  %flags_ok = icmp ne i32 %flag, 0
  %ok1 = and i1 %count_ok, %base_ok
  %ok2 = and i1 %ok1, %flags_ok
  br i1 %ok2, label %accept, label %no
accept:
  %data = call ptr @field(ptr %array, i64 $array_data)
  call void @put(ptr %arrays, i64 %index, ptr %array)
  call void @put(ptr %pointers, i64 %index, ptr %data)
  %k1 = add i64 %k, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; Axes that are polynomials, now that every symbol is bound: triples (array, axis, value).
define internal i1 @check_polynomials(ptr %table, ptr %arrays, ptr %values) nounwind {
entry:
  %n = call i64 @word(ptr %table, i64 $n_checked)
  %checked = call ptr @pointer(ptr %table, i64 $checked)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %equal]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %yes
look:
  %at = mul i64 %k, 3
  %at1 = add i64 %at, 1
  %at2 = add i64 %at, 2
  %which = call i64 @word(ptr %checked, i64 %at)
  %axis = call i64 @word(ptr %checked, i64 %at1)
  %index = call i64 @word(ptr %checked, i64 %at2)
  %array = call ptr @pointer(ptr %arrays, i64 %which)
  %dims = call ptr @field(ptr %array, i64 $array_dims)
  %d = call i64 @word(ptr %dims, i64 %axis)
  %v = call i64 @word(ptr %values, i64 %index)
  %ok = icmp eq i64 %d, %v
  br i1 %ok, label %equal, label %no
equal:
  %k1 = add i64 %k, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

@nothing = internal constant [64 x i8] zeroinitializer, align 64

; Kernels may read the first element of an array that has none: its memory is room for one then. A variable's own memory
; has that.
define internal void @give_room(ptr %table, ptr %arrays, ptr %pointers) nounwind {
entry:
  %n = call i64 @word(ptr %table, i64 $n_inputs)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %done]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %end
look:
  %array = call ptr @pointer(ptr %arrays, i64 %k)
  %dims = call ptr @field(ptr %array, i64 $array_dims)
  %nd_at = getelementptr inbounds i8, ptr %array, i64 $array_nd
  %nd32 = load i32, ptr %nd_at
  %nd = sext i32 %nd32 to i64
  %size = call i64 @product(ptr %dims, i64 %nd, i64 1)
  %empty = icmp eq i64 %size, 0
  br i1 %empty, label %replace, label %done
replace:
  call void @put(ptr %pointers, i64 %k, ptr @nothing)
  br label %done
done:
  %k1 = add i64 %k, 1
  br label %next
end:
  ret void
}

; Write the symbolic dimensions of the outputs: pairs (position, value). False when one is negative.
define internal i1 @fill_sizes(ptr %table, ptr %sizes, ptr %values) nounwind {
entry:
  %n = call i64 @word(ptr %table, i64 $n_patches)
  %patches = call ptr @pointer(ptr %table, i64 $patches)
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %fill]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %look, label %yes
look:
  %at = shl i64 %k, 1
  %at1 = add i64 %at, 1
  %position = call i64 @word(ptr %patches, i64 %at)
  %index = call i64 @word(ptr %patches, i64 %at1)
  %v = call i64 @word(ptr %values, i64 %index)
  %ok = icmp sge i64 %v, 0
  br i1 %ok, label %fill, label %no
fill:
  %cell = getelementptr inbounds i64, ptr %sizes, i64 %position
  store i64 %v, ptr %cell
  %k1 = add i64 %k, 1
  br label %next
yes:
  ret i1 true
no:
  ret i1 false
}

; %first times all dimensions, -1 beyond 63 bits.
define internal i64 @product(ptr %dims, i64 %n, i64 %first) nounwind {
entry:
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %more]
  %so_far = phi i64 [%first, %entry], [%times, %more]
  %some = icmp slt i64 %k, %n
  br i1 %some, label %more, label %done
more:
  %d = call i64 @word(ptr %dims, i64 %k)
  %multiplied = call { i64, i1 } @llvm.smul.with.overflow.i64(i64 %so_far, i64 %d)
  %times = extractvalue { i64, i1 } %multiplied, 0
  %too_large = extractvalue { i64, i1 } %multiplied, 1
  %k1 = add i64 %k, 1
  br i1 %too_large, label %overflow, label %next
overflow:
  ret i64 -1
done:
  ret i64 %so_far
}

; Fresh arrays for the outputs. False, with an exception set and nothing kept, without memory.
define internal i1 @make_outputs(ptr %table, ptr %sizes, ptr %outputs, ptr %pointers) {
entry:
  %n = call i64 @word(ptr %table, i64 $n_outputs)
  %records = call ptr @pointer(ptr %table, i64 $out_records)
  %ndarray = call ptr @pointer(ptr %table, i64 $ndarray)
  %recycled = call ptr @pointer(ptr %table, i64 $recycled)
  %turn_at = getelementptr inbounds i64, ptr %table, i64 $turn
  %turn = load i64, ptr %turn_at
  %other = xor i64 %turn, 1
  store i64 %other, ptr %turn_at
  %skip = mul i64 %turn, %n
  %slots = getelementptr inbounds i64, ptr %recycled, i64 %skip
  br label %next
next:
  %k = phi i64 [0, %entry], [%k1, %accept]
  %more = icmp slt i64 %k, %n
  br i1 %more, label %make, label %yes
make:
  %at = shl i64 %k, 2
  %record = getelementptr inbounds i64, ptr %records, i64 %at
  %descr = call ptr @pointer(ptr %record, i64 0)
  %nd = call i64 @word(ptr %record, i64 1)
  %first = call i64 @word(ptr %record, i64 2)
  %dims = getelementptr inbounds i64, ptr %sizes, i64 %first
  %itemsize = call i64 @word(ptr %record, i64 3)
  %bytes = call i64 @product(ptr %dims, i64 %nd, i64 %itemsize)
  %too_large = icmp slt i64 %bytes, 0
  br i1 %too_large, label %overflow, label %allocate
overflow:
  %ignored = call ptr @PyErr_NoMemory()
  br label %no
allocate:
  %slot = getelementptr inbounds i64, ptr %slots, i64 %k
  %array = call ptr @output_array(ptr %slot, ptr %ndarray, ptr %descr, i64 %nd, ptr %dims, i64 %bytes)
  %empty = icmp eq ptr %array, null
  br i1 %empty, label %no, label %accept
accept:
  %data = call ptr @field(ptr %array, i64 $array_data)
  call void @put(ptr %outputs, i64 %k, ptr %array)
  call void @put(ptr %pointers, i64 %k, ptr %data)
  %k1 = add i64 %k, 1
  br label %next
yes:
  ret i1 true
no:
  call void @release(ptr %outputs, i64 0, i64 %k)
  ret i1 false
}

