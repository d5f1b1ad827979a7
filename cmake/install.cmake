# Two things to install. `cmake --install build/release`: program, library, headers and wickConfig.cmake.
# `cmake --install build/release --component bundle`: the program with every library it uses but glibc, in one folder.
include(CMakePackageConfigHelpers)

set(wick_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/wick)
install(TARGETS wick EXPORT wickTargets COMPONENT wick)
install(TARGETS wick_program RUNTIME COMPONENT wick)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/wick TYPE INCLUDE COMPONENT wick)
install(EXPORT wickTargets NAMESPACE wick:: DESTINATION ${wick_package_dir} COMPONENT wick)
if(NOT DEFINED BUILD_SHARED_LIBS)
  set(BUILD_SHARED_LIBS OFF)
endif()
if(wick_cuda)
  set(wick_has_cuda ON)
else()
  set(wick_has_cuda OFF)
endif()
configure_package_config_file(cmake/wickConfig.cmake.in ${PROJECT_BINARY_DIR}/wickConfig.cmake
  INSTALL_DESTINATION ${wick_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/wickConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/wickConfig.cmake ${PROJECT_BINARY_DIR}/wickConfigVersion.cmake
  DESTINATION ${wick_package_dir} COMPONENT wick)

find_program(PATCHELF patchelf)
install(CODE "
  set(program \"$<TARGET_FILE:wick_program>\")
  set(patchelf \"${PATCHELF}\")
  set(strip \"${CMAKE_STRIP}\")
  include(\"${PROJECT_SOURCE_DIR}/cmake/bundle.cmake\")" COMPONENT bundle EXCLUDE_FROM_ALL)
