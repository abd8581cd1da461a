; Fifth part of the entry (see entry.ll): what a call returns for each output, a Tensor, or an array or a number of Python.

declare ptr @PyFloat_FromDouble(double)
declare ptr @PyComplex_FromDoubles(double, double)
declare ptr @PyLong_FromUnsignedLongLong(i64)
declare ptr @PyBool_FromLong(i64)

; The Tensor that holds %array, whose reference it takes; null without memory.
define internal ptr @tensor_of(ptr %table, ptr %array) {
  %type = call ptr @pointer(ptr %table, i64 $tensor)
  %offset = call i64 @word(ptr %table, i64 $tensor_offset)
  %t = call ptr @PyType_GenericAlloc(ptr %type, i64 0)
  %none = icmp eq ptr %t, null
  br i1 %none, label %done, label %fill
fill:
  %slot = getelementptr inbounds i8, ptr %t, i64 %offset
  store ptr %array, ptr %slot
  br label %done
done:
  ret ptr %t
}

; %array itself, or its only element as a number if %kind is one of them; takes the reference unless it returns null.
define internal ptr @plain_of(ptr %array, i64 %kind) {
entry:
  %data = call ptr @field(ptr %array, i64 $array_data)
  switch i64 %kind, label %whole [ $number_cases ]
whole:
  ret ptr %array
f8:
  %f8.value = load double, ptr %data
  %f8.object = call ptr @PyFloat_FromDouble(double %f8.value)
  br label %made
f4:
  %f4.value = load float, ptr %data
  %f4.wide = fpext float %f4.value to double
  %f4.object = call ptr @PyFloat_FromDouble(double %f4.wide)
  br label %made
c16:
  %c16.real = load double, ptr %data
  %c16.next = getelementptr inbounds double, ptr %data, i64 1
  %c16.imag = load double, ptr %c16.next
  %c16.object = call ptr @PyComplex_FromDoubles(double %c16.real, double %c16.imag)
  br label %made
c8:
  %c8.real = load float, ptr %data
  %c8.next = getelementptr inbounds float, ptr %data, i64 1
  %c8.imag = load float, ptr %c8.next
  %c8.wide = fpext float %c8.real to double
  %c8.wider = fpext float %c8.imag to double
  %c8.object = call ptr @PyComplex_FromDoubles(double %c8.wide, double %c8.wider)
  br label %made
$integers
b1:
  %b1.value = load i8, ptr %data
  %b1.wide = zext i8 %b1.value to i64
  %b1.object = call ptr @PyBool_FromLong(i64 %b1.wide)
  br label %made
made:
  %object = phi ptr [%f8.object, %f8], [%f4.object, %f4], [%c16.object, %c16], [%c8.object, %c8], $integer_objects [%b1.object, %b1]
  %none = icmp eq ptr %object, null
  br i1 %none, label %fail, label %drop
drop:
  call void @Py_DecRef(ptr %array)
  br label %fail
fail:
  ret ptr %object
}
