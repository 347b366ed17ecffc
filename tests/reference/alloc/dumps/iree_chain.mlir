// -----// IR Dump Before LayoutSlicesPass: iree-stream-layout-slices //----- //
util.func public @main(%arg0: !hal.buffer_view, %arg1: !hal.buffer_view) -> !hal.buffer_view attributes {iree.abi.stub, iree.reflection = {iree.abi.declaration = "sync func @main(%input0: tensor<64x64xf32>, %input1: tensor<64x64xf32>) -> (%output0: tensor<64x64xf32>)"}} {
  %c0 = arith.constant 0 : index
  %c16384 = arith.constant 16384 : index
  %c64 = arith.constant 64 : index
  %element_type_f32 = hal.element_type<f32> : i32
  %dense_row_major = hal.encoding_type<dense_row_major> : i32
  hal.buffer_view.assert<%arg0 : !hal.buffer_view> message("input0") shape([%c64, %c64]) type(%element_type_f32) encoding(%dense_row_major)
  %0 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg0 : !hal.buffer_view -> tensor<64x64xf32> in !stream.resource<external>{%c16384}
  %1 = stream.async.cast on(#hal.device.affinity<@__device_0>) %0 : !stream.resource<external>{%c16384} -> !stream.resource<*>{%c16384}
  hal.buffer_view.assert<%arg1 : !hal.buffer_view> message("input1") shape([%c64, %c64]) type(%element_type_f32) encoding(%dense_row_major)
  %2 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg1 : !hal.buffer_view -> tensor<64x64xf32> in !stream.resource<external>{%c16384}
  %3 = stream.async.cast on(#hal.device.affinity<@__device_0>) %2 : !stream.resource<external>{%c16384} -> !stream.resource<*>{%c16384}
  %4 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_0::@main_dispatch_0_matmul_64x64x64_f32(%1[%c0 to %c16384 for %c16384], %3[%c0 to %c16384 for %c16384]) : (!stream.resource<*>{%c16384}, !stream.resource<*>{%c16384}) -> !stream.resource<*>{%c16384}
  %5 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_0::@main_dispatch_0_matmul_64x64x64_f32(%4[%c0 to %c16384 for %c16384], %3[%c0 to %c16384 for %c16384]) : (!stream.resource<*>{%c16384}, !stream.resource<*>{%c16384}) -> !stream.resource<*>{%c16384}
  %6 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_0::@main_dispatch_0_matmul_64x64x64_f32(%5[%c0 to %c16384 for %c16384], %4[%c0 to %c16384 for %c16384]) : (!stream.resource<*>{%c16384}, !stream.resource<*>{%c16384}) -> !stream.resource<*>{%c16384}
  %7 = stream.async.dispatch on(#hal.device.affinity<@__device_0>) @main_dispatch_0::@main_dispatch_0_matmul_64x64x64_f32(%6[%c0 to %c16384 for %c16384], %5[%c0 to %c16384 for %c16384]) : (!stream.resource<*>{%c16384}, !stream.resource<*>{%c16384}) -> !stream.resource<*>{%c16384}
  %8 = stream.async.cast on(#hal.device.affinity<@__device_0>) %7 : !stream.resource<*>{%c16384} -> !stream.resource<external>{%c16384}
  %9 = stream.tensor.export on(#hal.device.affinity<@__device_0>) %8 : tensor<64x64xf32> in !stream.resource<external>{%c16384} -> !hal.buffer_view
  util.return %9 : !hal.buffer_view
}

// -----// IR Dump Before LayoutSlicesPass: iree-stream-layout-slices //----- //
util.func public @main(%arg0: !hal.buffer_view, %arg1: !hal.buffer_view) -> !hal.buffer_view attributes {iree.abi.stub, iree.reflection = {iree.abi.declaration = "sync func @main(%input0: tensor<64x64xf32>, %input1: tensor<64x64xf32>) -> (%output0: tensor<64x64xf32>)"}} {
  %c0 = arith.constant 0 : index
  %c16384 = arith.constant 16384 : index
  %c64 = arith.constant 64 : index
  %element_type_f32 = hal.element_type<f32> : i32
  %dense_row_major = hal.encoding_type<dense_row_major> : i32
  hal.buffer_view.assert<%arg0 : !hal.buffer_view> message("input0") shape([%c64, %c64]) type(%element_type_f32) encoding(%dense_row_major)
  %0 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg0 : !hal.buffer_view -> tensor<64x64xf32> in !stream.resource<external>{%c16384}
  hal.buffer_view.assert<%arg1 : !hal.buffer_view> message("input1") shape([%c64, %c64]) type(%element_type_f32) encoding(%dense_row_major)
  %1 = stream.tensor.import on(#hal.device.affinity<@__device_0>) %arg1 : !hal.buffer_view -> tensor<64x64xf32> in !stream.resource<external>{%c16384}
  %c0_0 = arith.constant 0 : index
  %result, %result_timepoint = stream.resource.alloca uninitialized on(#hal.device.affinity<@__device_0>) : !stream.resource<external>{%c16384} => !stream.timepoint
  %2:4 = stream.resource.pack on(#hal.device.affinity<@__device_0>) slices({
    [0, 2] = %c16384,
    [1, 3] = %c16384,
    [2, 3] = %c16384
  }) : index
  %result_1, %result_timepoint_2 = stream.resource.alloca uninitialized on(#hal.device.affinity<@__device_0>) : !stream.resource<transient>{%2#0} => !stream.timepoint
  %3 = stream.timepoint.join max(%result_timepoint, %result_timepoint_2) => !stream.timepoint
  %4 = stream.cmd.execute on(#hal.device.affinity<@__device_0>) await(%3) => with(%0 as %arg2: !stream.resource<external>{%c16384}, %1 as %arg3: !stream.resource<external>{%c16384}, %result as %arg4: !stream.resource<external>{%c16384}, %result_1 as %arg5: !stream.resource<transient>{%2#0}) {
    stream.cmd.dispatch @main_dispatch_0::@main_dispatch_0_matmul_64x64x64_f32 {
      ro %arg2[%c0 for %c16384] : !stream.resource<external>{%c16384},
      ro %arg3[%c0 for %c16384] : !stream.resource<external>{%c16384},
      wo %arg5[%2#1 for %c16384] : !stream.resource<transient>{%2#0}
    }
    stream.cmd.dispatch @main_dispatch_0::@main_dispatch_0_matmul_64x64x64_f32 {
      ro %arg5[%2#1 for %c16384] : !stream.resource<transient>{%2#0},
      ro %arg3[%c0 for %c16384] : !stream.resource<external>{%c16384},
      wo %arg5[%2#2 for %c16384] : !stream.resource<transient>{%2#0}
    }
    stream.cmd.dispatch @main_dispatch_0::@main_dispatch_0_matmul_64x64x64_f32 {
      ro %arg5[%2#2 for %c16384] : !stream.resource<transient>{%2#0},
      ro %arg5[%2#1 for %c16384] : !stream.resource<transient>{%2#0},
      wo %arg5[%2#3 for %c16384] : !stream.resource<transient>{%2#0}
    }
    stream.cmd.dispatch @main_dispatch_0::@main_dispatch_0_matmul_64x64x64_f32 {
      ro %arg5[%2#3 for %c16384] : !stream.resource<transient>{%2#0},
      ro %arg5[%2#2 for %c16384] : !stream.resource<transient>{%2#0},
      wo %arg4[%c0_0 for %c16384] : !stream.resource<external>{%c16384}
    }
  } => !stream.timepoint
  %5 = stream.resource.dealloca on(#hal.device.affinity<@__device_0>) await(%4) => %result_1 : !stream.resource<transient>{%2#0} => !stream.timepoint
  %6 = stream.timepoint.join max(%5, %4) => !stream.timepoint
  %7 = stream.timepoint.await %6 => %result : !stream.resource<external>{%c16384}
  %8 = stream.tensor.export on(#hal.device.affinity<@__device_0>) %7 : tensor<64x64xf32> in !stream.resource<external>{%c16384} -> !hal.buffer_view
  util.return %8 : !hal.buffer_view
}

