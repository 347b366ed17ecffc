// -----// IR Dump Before LayoutSlicesPass: iree-stream-layout-slices //----- //
util.func public @dyn(%arg0: !hal.buffer_view, %arg1: !hal.buffer_view) -> !hal.buffer_view attributes {iree.abi.stub, iree.reflection = {iree.abi.declaration = "sync func @dyn(%input0: tensor<?x64xf32>, %input1: tensor<64x64xf32>) -> (%output0: tensor<?x64xf32>)"}} {
  %c0 = arith.constant 0 : index
  %c16384 = arith.constant 16384 : index
  %c256 = arith.constant 256 : index
  %c64 = arith.constant 64 : index
  %0 = hal.buffer_view.dim<%arg0 : !hal.buffer_view>[0] : index
  %element_type_f32 = hal.element_type<f32> : i32
  %dense_row_major = hal.encoding_type<dense_row_major> : i32
  hal.buffer_view.assert<%arg0 : !hal.buffer_view> message("input0") shape([%0, %c64]) type(%element_type_f32) encoding(%dense_row_major)
  %1 = arith.muli %0, %c256 : index
  %2 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg0 : !hal.buffer_view -> tensor<?x64xf32>{%0} in !stream.resource<external>{%1}
  %3 = stream.async.cast on(#hal.device.affinity<@__device_0>) %2 : !stream.resource<external>{%1} -> !stream.resource<*>{%1}
  hal.buffer_view.assert<%arg1 : !hal.buffer_view> message("input1") shape([%c64, %c64]) type(%element_type_f32) encoding(%dense_row_major)
  %4 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg1 : !hal.buffer_view -> tensor<64x64xf32> in !stream.resource<external>{%c16384}
  %5 = stream.async.cast on(#hal.device.affinity<@__device_0>) %4 : !stream.resource<external>{%c16384} -> !stream.resource<*>{%c16384}
  %6 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @dyn_dispatch_0::@dyn_dispatch_0_matmul_Dx64x64_f32[%0](%3[%c0 to %1 for %1], %5[%c0 to %c16384 for %c16384], %0) : (!stream.resource<*>{%1}, !stream.resource<*>{%c16384}, index) -> !stream.resource<*>{%1}
  %7 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @dyn_dispatch_0::@dyn_dispatch_0_matmul_Dx64x64_f32[%0](%6[%c0 to %1 for %1], %5[%c0 to %c16384 for %c16384], %0) : (!stream.resource<*>{%1}, !stream.resource<*>{%c16384}, index) -> !stream.resource<*>{%1}
  %8 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @dyn_dispatch_0::@dyn_dispatch_0_matmul_Dx64x64_f32[%0](%7[%c0 to %1 for %1], %5[%c0 to %c16384 for %c16384], %0) : (!stream.resource<*>{%1}, !stream.resource<*>{%c16384}, index) -> !stream.resource<*>{%1}
  %9 = stream.async.cast on(#hal.device.affinity<@__device_0>) %8 : !stream.resource<*>{%1} -> !stream.resource<external>{%1}
  %10 = stream.tensor.export on(#hal.device.affinity<@__device_0>) %9 : tensor<?x64xf32>{%0} in !stream.resource<external>{%1} -> !hal.buffer_view
  util.return %10 : !hal.buffer_view
}

// -----// IR Dump Before LayoutSlicesPass: iree-stream-layout-slices //----- //
util.func public @two(%arg0: !hal.buffer_view, %arg1: !hal.buffer_view) -> !hal.buffer_view attributes {iree.abi.stub, iree.reflection = {iree.abi.declaration = "sync func @two(%input0: tensor<100x33xf32>, %input1: tensor<33x33xf32>) -> (%output0: tensor<100x33xf32>)"}} {
  %c0 = arith.constant 0 : index
  %c4356 = arith.constant 4356 : index
  %c13200 = arith.constant 13200 : index
  %c33 = arith.constant 33 : index
  %c100 = arith.constant 100 : index
  %element_type_f32 = hal.element_type<f32> : i32
  %dense_row_major = hal.encoding_type<dense_row_major> : i32
  hal.buffer_view.assert<%arg0 : !hal.buffer_view> message("input0") shape([%c100, %c33]) type(%element_type_f32) encoding(%dense_row_major)
  %0 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg0 : !hal.buffer_view -> tensor<100x33xf32> in !stream.resource<external>{%c13200}
  %1 = stream.async.cast on(#hal.device.affinity<@__device_0>) %0 : !stream.resource<external>{%c13200} -> !stream.resource<*>{%c13200}
  hal.buffer_view.assert<%arg1 : !hal.buffer_view> message("input1") shape([%c33, %c33]) type(%element_type_f32) encoding(%dense_row_major)
  %2 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg1 : !hal.buffer_view -> tensor<33x33xf32> in !stream.resource<external>{%c4356}
  %3 = stream.async.cast on(#hal.device.affinity<@__device_0>) %2 : !stream.resource<external>{%c4356} -> !stream.resource<*>{%c4356}
  %4 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @two_dispatch_0::@two_dispatch_0_matmul_100x33x33_f32(%1[%c0 to %c13200 for %c13200], %3[%c0 to %c4356 for %c4356]) : (!stream.resource<*>{%c13200}, !stream.resource<*>{%c4356}) -> !stream.resource<*>{%c13200}
  %5 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @two_dispatch_0::@two_dispatch_0_matmul_100x33x33_f32(%4[%c0 to %c13200 for %c13200], %3[%c0 to %c4356 for %c4356]) : (!stream.resource<*>{%c13200}, !stream.resource<*>{%c4356}) -> !stream.resource<*>{%c13200}
  %6 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @two_dispatch_0::@two_dispatch_0_matmul_100x33x33_f32(%5[%c0 to %c13200 for %c13200], %3[%c0 to %c4356 for %c4356]) : (!stream.resource<*>{%c13200}, !stream.resource<*>{%c4356}) -> !stream.resource<*>{%c13200}
  %7 = stream.async.cast on(#hal.device.affinity<@__device_0>) %6 : !stream.resource<*>{%c13200} -> !stream.resource<external>{%c13200}
  %8 = stream.tensor.export on(#hal.device.affinity<@__device_0>) %7 : tensor<100x33xf32> in !stream.resource<external>{%c13200} -> !hal.buffer_view
  util.return %8 : !hal.buffer_view
}

// -----// IR Dump Before LayoutSlicesPass: iree-stream-layout-slices //----- //
util.func public @dyn(%arg0: !hal.buffer_view, %arg1: !hal.buffer_view) -> !hal.buffer_view attributes {iree.abi.stub, iree.reflection = {iree.abi.declaration = "sync func @dyn(%input0: tensor<?x64xf32>, %input1: tensor<64x64xf32>) -> (%output0: tensor<?x64xf32>)"}} {
  %c0 = arith.constant 0 : index
  %c16384 = arith.constant 16384 : index
  %c256 = arith.constant 256 : index
  %c64 = arith.constant 64 : index
  %0 = hal.buffer_view.dim<%arg0 : !hal.buffer_view>[0] : index
  %element_type_f32 = hal.element_type<f32> : i32
  %dense_row_major = hal.encoding_type<dense_row_major> : i32
  hal.buffer_view.assert<%arg0 : !hal.buffer_view> message("input0") shape([%0, %c64]) type(%element_type_f32) encoding(%dense_row_major)
  %1 = arith.muli %0, %c256 : index
  %2 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg0 : !hal.buffer_view -> tensor<?x64xf32>{%0} in !stream.resource<external>{%1}
  hal.buffer_view.assert<%arg1 : !hal.buffer_view> message("input1") shape([%c64, %c64]) type(%element_type_f32) encoding(%dense_row_major)
  %3 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg1 : !hal.buffer_view -> tensor<64x64xf32> in !stream.resource<external>{%c16384}
  %c0_0 = arith.constant 0 : index
  %result, %result_timepoint = stream.resource.alloca uninitialized on(#hal.device.affinity<@__device_0>) : !stream.resource<external>{%1} => !stream.timepoint
  %4:3 = stream.resource.pack on(#hal.device.affinity<@__device_0>) slices({
    [0, 1] = %1,
    [1, 2] = %1
  }) : index
  %result_1, %result_timepoint_2 = stream.resource.alloca uninitialized on(#hal.device.affinity<@__device_0>) : !stream.resource<transient>{%4#0} => !stream.timepoint
  %5 = stream.timepoint.join max(%result_timepoint, %result_timepoint_2) => !stream.timepoint
  %6 = stream.cmd.execute on(#hal.device.affinity<@__device_0>) await(%5) => with(%2 as %arg2: !stream.resource<external>{%1}, %3 as %arg3: !stream.resource<external>{%c16384}, %result as %arg4: !stream.resource<external>{%1}, %result_1 as %arg5: !stream.resource<transient>{%4#0}) {
    stream.cmd.dispatch @dyn_dispatch_0::@dyn_dispatch_0_matmul_Dx64x64_f32[%0](%0 : index) {
      ro %arg2[%c0 for %1] : !stream.resource<external>{%1},
      ro %arg3[%c0 for %c16384] : !stream.resource<external>{%c16384},
      wo %arg5[%4#1 for %1] : !stream.resource<transient>{%4#0}
    }
    stream.cmd.dispatch @dyn_dispatch_0::@dyn_dispatch_0_matmul_Dx64x64_f32[%0](%0 : index) {
      ro %arg5[%4#1 for %1] : !stream.resource<transient>{%4#0},
      ro %arg3[%c0 for %c16384] : !stream.resource<external>{%c16384},
      wo %arg5[%4#2 for %1] : !stream.resource<transient>{%4#0}
    }
    stream.cmd.dispatch @dyn_dispatch_0::@dyn_dispatch_0_matmul_Dx64x64_f32[%0](%0 : index) {
      ro %arg5[%4#2 for %1] : !stream.resource<transient>{%4#0},
      ro %arg3[%c0 for %c16384] : !stream.resource<external>{%c16384},
      wo %arg4[%c0_0 for %1] : !stream.resource<external>{%1}
    }
  } => !stream.timepoint
  %7 = stream.resource.dealloca on(#hal.device.affinity<@__device_0>) await(%6) => %result_1 : !stream.resource<transient>{%4#0} => !stream.timepoint
  %8 = stream.timepoint.join max(%7, %6) => !stream.timepoint
  %9 = stream.timepoint.await %8 => %result : !stream.resource<external>{%1}
  %10 = stream.tensor.export on(#hal.device.affinity<@__device_0>) %9 : tensor<?x64xf32>{%0} in !stream.resource<external>{%1} -> !hal.buffer_view
  util.return %10 : !hal.buffer_view
}

// -----// IR Dump Before LayoutSlicesPass: iree-stream-layout-slices //----- //
util.func public @two(%arg0: !hal.buffer_view, %arg1: !hal.buffer_view) -> !hal.buffer_view attributes {iree.abi.stub, iree.reflection = {iree.abi.declaration = "sync func @two(%input0: tensor<100x33xf32>, %input1: tensor<33x33xf32>) -> (%output0: tensor<100x33xf32>)"}} {
  %c0 = arith.constant 0 : index
  %c4356 = arith.constant 4356 : index
  %c13200 = arith.constant 13200 : index
  %c33 = arith.constant 33 : index
  %c100 = arith.constant 100 : index
  %element_type_f32 = hal.element_type<f32> : i32
  %dense_row_major = hal.encoding_type<dense_row_major> : i32
  hal.buffer_view.assert<%arg0 : !hal.buffer_view> message("input0") shape([%c100, %c33]) type(%element_type_f32) encoding(%dense_row_major)
  %0 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg0 : !hal.buffer_view -> tensor<100x33xf32> in !stream.resource<external>{%c13200}
  hal.buffer_view.assert<%arg1 : !hal.buffer_view> message("input1") shape([%c33, %c33]) type(%element_type_f32) encoding(%dense_row_major)
  %1 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg1 : !hal.buffer_view -> tensor<33x33xf32> in !stream.resource<external>{%c4356}
  %c0_0 = arith.constant 0 : index
  %result, %result_timepoint = stream.resource.alloca uninitialized on(#hal.device.affinity<@__device_0>) : !stream.resource<external>{%c13200} => !stream.timepoint
  %2:3 = stream.resource.pack on(#hal.device.affinity<@__device_0>) slices({
    [0, 1] = %c13200,
    [1, 2] = %c13200
  }) : index
  %result_1, %result_timepoint_2 = stream.resource.alloca uninitialized on(#hal.device.affinity<@__device_0>) : !stream.resource<transient>{%2#0} => !stream.timepoint
  %3 = stream.timepoint.join max(%result_timepoint, %result_timepoint_2) => !stream.timepoint
  %4 = stream.cmd.execute on(#hal.device.affinity<@__device_0>) await(%3) => with(%0 as %arg2: !stream.resource<external>{%c13200}, %1 as %arg3: !stream.resource<external>{%c4356}, %result as %arg4: !stream.resource<external>{%c13200}, %result_1 as %arg5: !stream.resource<transient>{%2#0}) {
    stream.cmd.dispatch @two_dispatch_0::@two_dispatch_0_matmul_100x33x33_f32 {
      ro %arg2[%c0 for %c13200] : !stream.resource<external>{%c13200},
      ro %arg3[%c0 for %c4356] : !stream.resource<external>{%c4356},
      wo %arg5[%2#1 for %c13200] : !stream.resource<transient>{%2#0}
    }
    stream.cmd.dispatch @two_dispatch_0::@two_dispatch_0_matmul_100x33x33_f32 {
      ro %arg5[%2#1 for %c13200] : !stream.resource<transient>{%2#0},
      ro %arg3[%c0 for %c4356] : !stream.resource<external>{%c4356},
      wo %arg5[%2#2 for %c13200] : !stream.resource<transient>{%2#0}
    }
    stream.cmd.dispatch @two_dispatch_0::@two_dispatch_0_matmul_100x33x33_f32 {
      ro %arg5[%2#2 for %c13200] : !stream.resource<transient>{%2#0},
      ro %arg3[%c0 for %c4356] : !stream.resource<external>{%c4356},
      wo %arg4[%c0_0 for %c13200] : !stream.resource<external>{%c13200}
    }
  } => !stream.timepoint
  %5 = stream.resource.dealloca on(#hal.device.affinity<@__device_0>) await(%4) => %result_1 : !stream.resource<transient>{%2#0} => !stream.timepoint
  %6 = stream.timepoint.join max(%5, %4) => !stream.timepoint
  %7 = stream.timepoint.await %6 => %result : !stream.resource<external>{%c13200}
  %8 = stream.tensor.export on(#hal.device.affinity<@__device_0>) %7 : tensor<100x33xf32> in !stream.resource<external>{%c13200} -> !hal.buffer_view
  util.return %8 : !hal.buffer_view
}

