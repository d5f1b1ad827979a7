# Installs into an empty folder and, with nothing but that folder, builds and runs the example.
# BUILD: the build folder; SOURCE: the sources; WORK: a folder for this test; FLAGS: compiler flags; GENERATOR, COMPILER.
file(REMOVE_RECURSE "${WORK}")
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN}: ${result}")
  endif()
endfunction()

run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/prefix" --component wick)
run("${WORK}/prefix/bin/wick" --version)
run("${CMAKE_COMMAND}" -G "${GENERATOR}" -S "${SOURCE}/examples/finetune" -B "${WORK}/build"
  "-DCMAKE_PREFIX_PATH=${WORK}/prefix" "-DCMAKE_CXX_COMPILER=${COMPILER}" "-DCMAKE_CXX_FLAGS=${FLAGS}"
  -DCMAKE_BUILD_TYPE=Release)
run("${CMAKE_COMMAND}" --build "${WORK}/build")
run("${WORK}/build/finetune" "${SOURCE}/models/tales" "${SOURCE}/data/alice/train.jsonl" "${WORK}/adapter")
foreach(file adapter_config.json adapter_model.safetensors metrics.jsonl loss.svg)
  if(NOT EXISTS "${WORK}/adapter/${file}")
    message(FATAL_ERROR "the example left no ${file}")
  endif()
endforeach()
