# SPDX-License-Identifier: Apache-2.0
# Install rules and the package files that find_package(prefixshare) reads.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/prefixshare)

install(TARGETS prefixshare_headers EXPORT prefixshareTargets FILE_SET HEADERS FILE_SET detail_headers)
install(TARGETS prefixshare_testing EXPORT prefixshareTargets FILE_SET HEADERS)
install(TARGETS prefixshare EXPORT prefixshareTargets)
install(EXPORT prefixshareTargets NAMESPACE prefixshare:: DESTINATION ${package_dir})

# In a file of its own, which the config reads only when the component is asked for and Eigen is there.
install(TARGETS prefixshare_reference EXPORT prefixshareReferenceTargets FILE_SET HEADERS)
install(EXPORT prefixshareReferenceTargets NAMESPACE prefixshare:: DESTINATION ${package_dir})

configure_package_config_file(cmake/prefixshareConfig.cmake.in prefixshareConfig.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(prefixshareConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/prefixshareConfig.cmake ${PROJECT_BINARY_DIR}/prefixshareConfigVersion.cmake
  DESTINATION ${package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
